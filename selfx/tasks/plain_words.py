"""Words as answers: which tokens are words, and in what form words are compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_UNSAYABLE = frozenset("<>,\N{REPLACEMENT CHARACTER}")
"""Brackets and commas mean something in answers; the last is a part of a letter's bytes."""


def word_of(piece: str) -> str | None:
    """The word that a token's text is, white space around it left out, or None.

    A word prints, has a letter or digit in it, and no white space, bracket or comma. A part of a
    longer word counts: tokens are what is asked about.
    """
    word = piece.strip()
    good = word.isprintable() and not any(map(str.isspace, word)) and not _UNSAYABLE & set(word)
    return word if good and any(map(str.isalnum, word)) else None


def first_words(pieces: Iterable[str], count: int) -> tuple[str, ...]:
    """The first `count` different words among tokens' texts; fewer where there are no more."""
    found: dict[str, str] = {}
    for piece in pieces:
        word = word_of(piece)
        if word is not None:
            found.setdefault(bare(word), word)
    return tuple(found.values())[:count]


def bare(text: str) -> str:
    """The form in which words are compared: casefolded, white space single, ends trimmed."""
    return trimmed(" ".join(text.casefold().split()))


def trimmed(text: str) -> str:
    """A text without white space and punctuation (Unicode's categories P) at its ends.

    Where nothing would be left, the punctuation stays.
    """
    start, end = 0, len(text)
    while start < end and _edge(text[start]):
        start += 1
    while end > start and _edge(text[end - 1]):
        end -= 1
    return text[start:end] or text.strip()


def _edge(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter).startswith("P")
