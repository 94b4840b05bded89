"""What a judge is asked about a pair of descriptions, and the number that its reply names.

The question and its scale are those of arXiv 2511.08579, so that scores can be compared with the
published ones; its five examples are of the same things, in words of our own. All of it stands in
`prompt.txt` beside this file.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib.resources import files

Pair = tuple[str, str]
"""A description that was given, and the true one."""

RATINGS = (1, 2, 3, 4, 5)

_SCALE = re.compile(
    r"/\s*5(?!\.?\d)|\b(?:out )?of (?:5|five)\b|\b1\s*(?:to|-|–)\s*5\b", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.,])-?[0-9]+(?:[.,][0-9]+)*(?!\w)")
_WORD = re.compile(
    r"\W*(?:(?:rating|score|grade)\W*(?:is\W+)?)?(one|two|three|four|five)\W*", re.IGNORECASE
)
_WORDS = dict(zip(("one", "two", "three", "four", "five"), RATINGS, strict=True))
_NAMES = {f"{n}{zeros}": n for n in RATINGS for zeros in ("", ".0")}


def question(pair: Pair) -> str:
    """What is asked about a pair, each description on one line."""
    predicted, expected = (" ".join(text.split()) for text in pair)
    return _template().format(predicted=predicted, expected=expected)


def rating(reply: str) -> int | None:
    """The one rating from 1 to 5 that a reply names; None if it names none, or several.

    A first line that names one is enough, whatever is said after it. Of `4/5` and `4 out of 5` the
    scale does not count. A number in words counts where it is all that is said.
    """
    first = next((line for line in reply.splitlines() if line.strip()), "")
    named = _named(first)
    return _only(named if len(named) == 1 else _named(reply))


def score(rated: float | None) -> float:
    """From 0 to 1: a rating of 1 is 0, one of 5 is 1, and one that cannot be read is 0."""
    return 0.0 if rated is None else (rated - RATINGS[0]) / (RATINGS[-1] - RATINGS[0])


def digest() -> str:
    """Changes with the wording of the question."""
    return hashlib.sha256(_template().encode()).hexdigest()[:16]


@functools.cache
def _template() -> str:
    return files("selfx.evaluation.judge").joinpath("prompt.txt").read_text("utf-8").rstrip("\n")


def _named(text: str) -> set[int | None]:
    """The numbers in a text, those that are no rating as None."""
    text = _SCALE.sub(" ", text)
    found = {_NAMES.get(number) for number in _NUMBER.findall(text)}
    word = None if found else _WORD.fullmatch(text)
    return {_WORDS[word[1].lower()]} if word else found


def _only(named: set[int | None]) -> int | None:
    return next(iter(named)) if len(named) == 1 else None
