"""Questions whose answer only the vector holds: what is asked, in each of its wordings.

Short, since every token costs training time. `{layer}` names every layer that a vector is of, but
for `lens`, whose answer is read from the last alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfx.tasks.example import SLOT

ASKS: dict[str, str] = {
    "here": "the token at the place",
    "next": "the token that the target itself would put next",
    "lens": "the three likeliest words that the target's head reads from the vector",
    "before": "the three words that end at the place",
    "which": "which of two excerpts has the place in it",
    "place": "at which word of an excerpt the place is",
}
"""Every kind of question, and its answer; the place is where the vector was taken."""

LISTED = 3
"""How many words the answers of `lens` and `before` have."""

CHAT: dict[str, tuple[str, ...]] = {
    "here": (
        "At which token was {slot} read at layer {layer}?",
        "{slot} was read at layer {layer}. Name the token there.",
        "Which token does {slot} stand for at layer {layer}?",
    ),
    "next": (
        "Which token comes next after {slot} at layer {layer}?",
        "{slot} was read at layer {layer}. Name the model's next token.",
        "At layer {layer}, which token does {slot} lead to?",
    ),
    "lens": (
        "Which three words does the output head read from {slot} at layer {layer}?",
        "{slot} was read at layer {layer}. Name its three top words in the logit lens.",
        "Decode {slot} of layer {layer} into its three likeliest words.",
    ),
    "before": (
        "Which three words end where {slot} was read at layer {layer}?",
        "{slot} was read at layer {layer}. Name the three words up to there.",
        "What are the last three words at {slot} of layer {layer}?",
    ),
    "which": (
        "In which text was {slot} read at layer {layer}?\nA: {shown[0]}\nB: {shown[1]}",
        "A: {shown[0]}\nB: {shown[1]}\nIs {slot} of layer {layer} from A or B?",
        "{slot} was read at layer {layer} in A or B?\nA: {shown[0]}\nB: {shown[1]}",
    ),
    "place": (
        "At which word of <<<{shown[0]}>>> was {slot} read at layer {layer}?",
        "{slot} was read at layer {layer} in <<<{shown[0]}>>>. At which word?",
        "Text: <<<{shown[0]}>>>. Which of its words is {slot} of layer {layer} from?",
    ),
}
"""The wordings for a model that chats."""

PLAIN: dict[str, tuple[str, ...]] = {
    "here": (
        "At layer {layer}, {slot} was read at the token",
        "The token at {slot} of layer {layer} is",
        "{slot} of layer {layer} stands for",
    ),
    "next": (
        "At layer {layer}, the token that comes next after {slot} is",
        "After {slot} of layer {layer} the model says",
        "{slot} of layer {layer} leads to",
    ),
    "lens": (
        "At layer {layer}, the output head reads from {slot} the words",
        "The three likeliest words of {slot} at layer {layer} are",
        "In the logit lens, {slot} of layer {layer} says",
    ),
    "before": (
        "At layer {layer}, {slot} was read after the words",
        "The three words that end at {slot} of layer {layer} are",
        "The text at {slot} of layer {layer} ends in",
    ),
    "which": (
        "A: {shown[0]}\nB: {shown[1]}\nAt layer {layer}, {slot} was read in",
        "A: {shown[0]}\nB: {shown[1]}\nOf the two, {slot} of layer {layer} is from",
        "Text A is: {shown[0]}\nText B is: {shown[1]}\n{slot} of layer {layer} belongs to",
    ),
    "place": (
        "In <<<{shown[0]}>>>, {slot} was read at layer {layer} at the word",
        "Of the words <<<{shown[0]}>>>, {slot} of layer {layer} is from",
        "Text: <<<{shown[0]}>>>. At layer {layer}, {slot} is the word",
    ),
}
"""The beginnings of sentences that the answer ends, for a model that does not."""


def questions_for_reading(
    ask: str, layers: Sequence[int], shown: Sequence[str] = ()
) -> tuple[str, ...]:
    """The wordings of a question about vectors of `layers`, for a model that chats."""
    return _worded(CHAT[ask], ask, layers, shown)


def openings_for_reading(
    ask: str, layers: Sequence[int], shown: Sequence[str] = ()
) -> tuple[str, ...]:
    """The beginnings of a sentence that answers it."""
    return _worded(PLAIN[ask], ask, layers, shown)


def listed(words: Sequence[str]) -> str:
    """Words in an order, as an answer has them."""
    return ", ".join(words)


def _worded(
    templates: Sequence[str], ask: str, layers: Sequence[int], shown: Sequence[str]
) -> tuple[str, ...]:
    named = ", ".join(map(str, layers[-1:] if ask == "lens" else layers))
    return tuple(text.format(slot=SLOT, layer=named, shown=shown) for text in templates)
