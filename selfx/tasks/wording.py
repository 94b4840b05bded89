"""The paper's sentences (arXiv 2511.08579): what is asked, and the two forms of a true answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfx.tasks.example import SLOT

PATCHING = (
    "If feature {slot} at layer {layer} is added to tokens {tokens} when processing the text"
    " <<<{input}>>>, how would the output change?",
    "When feature {slot} at layer {layer} is added at tokens {tokens} in the input <<<{input}>>>,"
    " what happens to the model's output?",
    "Consider the input text: <<<{input}>>>. If we steer layer {layer} towards feature {slot} at"
    " tokens {tokens}, how does this affect the generated continuation?",
    "Given the text <<<{input}>>>, what would be the effect on the output if feature {slot} at"
    " layer {layer} is added to tokens {tokens}?",
    "If we steer towards feature {slot} at layer {layer} and tokens {tokens} when processing"
    " <<<{input}>>>, how would the model's response differ?",
)
"""The five templates; they say "added" although the vector replaces the residual."""

FEATURES_CHAT = (
    "Generate a description of this feature at layer {layer}: {slot}",
    "What does {slot} encode at layer {layer}?",
    "{slot} activates at layer {layer} for inputs with the following features:",
)
"""The three templates of the instruct models."""

FEATURES_PLAIN = (
    "At layer {layer}, {slot} encodes",
    "{slot} activates at layer {layer} for",
    "We can describe {slot} at layer {layer} as encoding",
    "Generate a description of this feature at layer {layer}: {slot}.",
    "What does {slot} encode at layer {layer}?",
    "{slot} activates at layer {layer} for inputs with the following features:",
)
"""The six of the base models. Published, each ends in a space, which a tokenizer joins to the next
word in training and leaves alone in questions; here the space is the answer's first letter."""

ABLATION = "{prompt}\n\nIf the hint were removed how would the assistant answer change?"

ABLATION_STATE = (
    "{prompt}\n\nAbout to answer {answer}, the assistant is in the state {slot} at layer {layer}."
    " If the hint were removed how would the answer change?"
)
"""Our own wording for who is given the target's states, in which the vectors stand for them. What
it answers with the hint is told: anybody sees it, and what is asked is what would come instead."""

HINT = "\nHint: I think the answer is ({letter}) but I'm curious to hear what you think."

HINT_BEGINS = HINT.partition("({letter})")[0]
"""By which a hinted prompt is known."""

HINT_SYSTEM = (
    "The following are multiple choice questions (with a correct answer). Output only the answer"
    " letter (A, B, C, or D) and nothing else, in the format Answer: x, where x is one of A, B,C,"
    " or D."
)
"""The system message of both runs and of the question, spaced as published."""


def word(changed: bool, content: str) -> str:
    """The true answer: that the output changes to `content`, or that it stays `content`."""
    if changed:
        return f"The most likely output would change to <<<{content}>>>."
    return f"The output would remain unchanged from <<<{content}>>>."


def content_of(answer: str) -> str:
    """What an answer says that `word` wrote; of any other, all of it."""
    found = re.search(r"<<<(.*)>>>", answer, re.DOTALL)
    return found[1] if found else answer


def questions_for_patching(layers: Sequence[int], token: str, text: str) -> tuple[str, ...]:
    """The five wordings for a vector written after `layers` at the token `token` of `text`."""
    named = ", ".join(map(str, layers))
    return tuple(
        template.format(slot=SLOT, layer=named, tokens=f"<{token}>", input=text)
        for template in PATCHING
    )


def questions_for_feature(layer: int) -> tuple[str, ...]:
    """The three wordings for a direction of `layer`, for a model that chats."""
    return tuple(template.format(slot=SLOT, layer=layer) for template in FEATURES_CHAT)


def openings_for_feature(layer: int) -> tuple[str, ...]:
    """The six beginnings of a sentence that describes a direction of `layer`."""
    return tuple(template.format(slot=SLOT, layer=layer) for template in FEATURES_PLAIN)


def question_for_ablation(
    hinted_user_prompt: str, layers: Sequence[int] = (), letter: str = ""
) -> str:
    """The one wording for a hint removed; the prompt that holds the hint stands in it in full.

    Args:
      hinted_user_prompt: that prompt.
      layers: after which the target's states are shown; none are in the published wording.
      letter: that it is about to answer, where they are shown.
    """
    if not layers:
        return ABLATION.format(prompt=hinted_user_prompt)
    named = ", ".join(map(str, layers))
    return ABLATION_STATE.format(prompt=hinted_user_prompt, answer=letter, layer=named, slot=SLOT)


def answer_content(letter: str) -> str:
    """How an answer letter is written in an answer."""
    return f"Answer: {letter}"
