"""Questions with a part of them left out, from the templates that the whole ones are made of.

What is left out becomes "some …" in the template, before anything is filled in, so that no word of
it can remain. A vector that is added after its own layer still tells that layer by its place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from selfx.errors import SelfxError
from selfx.tasks.example import SLOT, Example
from selfx.tasks.pieces import pieces_to_text
from selfx.tasks.reading_questions import CHAT, PLAIN
from selfx.tasks.schema import ABLATION, FEATURES, HINTED_ANSWER, PATCHING, READING
from selfx.tasks.wording import ABLATION as HINTED
from selfx.tasks.wording import ABLATION_STATE, FEATURES_CHAT, FEATURES_PLAIN, HINT_BEGINS
from selfx.tasks.wording import PATCHING as PATCHED

_TOKEN = (("tokens {tokens}", "some tokens"),)
_TEXT = (
    ("the input text: <<<{input}>>>", "some input text"),
    ("the text <<<{input}>>>", "some text"),
    ("the input <<<{input}>>>", "some input"),
    ("<<<{input}>>>", "some text"),
    ("the words <<<{shown[0]}>>>", "the words of some text"),
    ("<<<{shown[0]}>>>", "some text"),
    ("{shown[0]}", "some text"),
    ("{shown[1]}", "another text"),
)
PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "vector": (("feature {slot}", "some feature"), ("{slot}", "some vector")),
    "text": _TEXT + _TOKEN,
    "layer": (("layer {layer}", "some layer"),),
    "token": _TOKEN,
    "hint": (("({letter})", "(some letter)"),),
    "question": (("{question}", "Some question."),),
}
"""What can be left out: how templates name it, and what stands there instead. The text takes the
tokens named from it along: what is left is the vector and its layer."""


@dataclasses.dataclass(frozen=True)
class _Asked:
    """How an example's question is put together: templates of both kinds, and what fills them."""

    questions: tuple[str, ...]
    openings: tuple[str, ...]
    fill: Mapping[str, Any]


def withheld(example: Example, part: str) -> Example:
    """The example with a part of its question left out; itself where its question has no such part.

    A question in other words than the task's templates is left as it is. Without its vector an
    example has none to read either.

    Raises:
      SelfxError: there is no such part.
    """
    if part not in PARTS:
        raise SelfxError(f"part {part!r} of a question", expected=f"one of {', '.join(PARTS)}")
    asked = _asked(example)
    if asked is None:
        return example
    less = _less(asked, part)
    if less == asked:
        return example
    nothing: dict[str, Any] = {"vectors": None, "layers": ()} if part == "vector" else {}
    return dataclasses.replace(
        example,
        questions=tuple(template.format(**asked.fill) for template in less.questions),
        openings=tuple(template.format(**asked.fill) for template in less.openings),
        without=(*example.without, part),
        **nothing,
    )


def _asked(example: Example) -> _Asked | None:
    """How the example's question was put together, less what was left out of it before; None where
    it cannot be told."""
    if example.task not in _ASKED or not example.details:
        return None
    asked = _ASKED[example.task](example)
    if asked is None:
        return None
    asked = functools.reduce(_less, example.without, asked)
    so_far = tuple(template.format(**asked.fill) for template in asked.questions)
    return asked if so_far == example.questions else None


def _less(asked: _Asked, part: str) -> _Asked:
    """The templates with a part left out."""
    questions, openings = (
        tuple(_without(template, part) for template in templates)
        for templates in (asked.questions, asked.openings)
    )
    return dataclasses.replace(asked, questions=questions, openings=openings)


def _without(template: str, part: str) -> str:
    """The template, its first letter a capital as before."""
    less = template
    for named, instead in PARTS[part]:
        less = less.replace(named, instead)
    return less if less == template else less[:1].upper() + less[1:]


def _patching(example: Example) -> _Asked:
    row = example.details
    fill = {
        "slot": SLOT,
        "layer": ", ".join(map(str, row["layer"])),
        "tokens": f"<{pieces_to_text([row['patch_position']['orig_text_token']])}>",
        "input": pieces_to_text(row["input_tokens"]),
    }
    return _Asked(PATCHED, (), fill)


def _ablation(example: Example) -> _Asked | None:
    """Only the hint's sentence is known; what stands before it is the question."""
    prompt = example.details["hint_user_prompt"]
    question, found, rest = prompt.rpartition(HINT_BEGINS)
    if not found:
        return None
    whole = "{question}" + HINT_BEGINS + "({letter}){rest}"
    fill = {"question": question, "letter": rest[1:2], "rest": rest[3:]}
    layers = example.details.get("layers")
    if not layers:
        return _Asked((HINTED.format(prompt=whole),), (), fill)
    template = ABLATION_STATE.replace("{prompt}", whole)
    named = ", ".join(map(str, layers))
    told = {"slot": SLOT, "layer": named, "answer": example.details[HINTED_ANSWER].strip()}
    return _Asked((template,), (), fill | told)


def _feature(example: Example) -> _Asked:
    fill = {"slot": SLOT, "layer": int(example.details["layer"])}
    return _Asked(FEATURES_CHAT, FEATURES_PLAIN, fill)


def _reading(example: Example) -> _Asked:
    row = example.details
    layers = row["layers"][-1:] if row["ask"] == "lens" else row["layers"]
    fill = {"slot": SLOT, "layer": ", ".join(map(str, layers)), "shown": row["shown"]}
    return _Asked(CHAT[row["ask"]], PLAIN[row["ask"]], fill)


_ASKED: dict[str, Callable[[Example], _Asked | None]] = {
    PATCHING: _patching,
    ABLATION: _ablation,
    FEATURES: _feature,
    READING: _reading,
}
