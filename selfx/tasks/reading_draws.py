"""Which questions can be asked at a place of a text, and their true answers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from selfx.tasks.plain_words import bare, trimmed, word_of
from selfx.tasks.reading_questions import LISTED
from selfx.tasks.reading_texts import Window, alone


@dataclasses.dataclass(frozen=True)
class Look:
    """A text that the target has read.

    Attributes:
      window: the text.
      other: a text of another document of the same split, or None.
      places: the positions that were looked at.
      following: the text of the target's own next token at each.
      size: words of an excerpt.
    """

    window: Window
    other: Window | None
    places: tuple[int, ...]
    following: tuple[str, ...]
    size: int


@dataclasses.dataclass(frozen=True)
class Draw:
    """A question, but for its vectors.

    Attributes:
      ask: its kind.
      text: which text of the block it is about.
      slot: which of the places looked at in it.
      layer: the last layer of its vectors.
      answer: the true answer; "" where the vector decides it.
      shown: the excerpts that it shows.
    """

    ask: str
    text: int
    slot: int
    layer: int
    answer: str
    shown: tuple[str, ...] = ()


Answered = tuple[str, tuple[str, ...]]
"""An answer, and the excerpts that the question shows."""


def draws(
    look: Look, text: int, asks: Sequence[str], layers: Sequence[int], rng: np.random.Generator
) -> list[Draw]:
    """One question of each kind that can be asked of a text, each at a place and layer of its own.

    Args:
      look: the text.
      text: its number.
      asks: the kinds.
      layers: to draw from.
      rng: decides every draw.
    """
    free, found = list(range(len(look.places))), []
    for ask in rng.permutation(asks).tolist():
        layer = int(rng.choice(layers))
        for slot in rng.permutation(free).tolist():
            answered = _TRUTHS[ask](look, slot, rng)
            if answered is not None:
                free.remove(slot)
                found.append(Draw(ask, text, slot, layer, *answered))
                break
    return found


def capped(drawn: Sequence[Draw], most: float) -> list[Draw]:
    """The questions without those whose answer would be more than a share `most` of their kind's.

    The first of each answer stay, one at least. Of `which`, whose answers are two, all do.
    """
    answers: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for draw in drawn:
        answers[draw.ask][bare(draw.answer)] += 1
    room = {ask: len(drawn) if ask == "which" else _room(n, most) for ask, n in answers.items()}
    taken: collections.Counter[tuple[str, str]] = collections.Counter()
    kept = []
    for draw in drawn:
        key = draw.ask, bare(draw.answer)
        taken[key] += 1
        if taken[key] <= room[draw.ask]:
            kept.append(draw)
    return kept


def _room(counts: collections.Counter[str], most: float) -> int:
    """How often an answer may stand so that none is more than a share `most` of those left."""
    tried = range(max(counts.values()), 1, -1)
    fits = (n for n in tried if n <= most * sum(min(n, count) for count in counts.values()))
    return next(fits, 1)


def _here(look: Look, slot: int, rng: np.random.Generator) -> Answered | None:
    word = word_of(look.window.pieces[look.places[slot]])
    return None if word is None else (word, ())


def _next(look: Look, slot: int, rng: np.random.Generator) -> Answered | None:
    word = word_of(look.following[slot])
    return None if word is None else (word, ())


def _lens(look: Look, slot: int, rng: np.random.Generator) -> Answered | None:
    return "", ()


def _before(look: Look, slot: int, rng: np.random.Generator) -> Answered | None:
    said = look.window.said_until(look.places[slot], LISTED)
    return None if said is None else (said, ())


def _which(look: Look, slot: int, rng: np.random.Generator) -> Answered | None:
    own, swap = _around(look, slot, rng), bool(rng.integers(2))
    if own is None or look.other is None or not look.other.body:
        return None
    other = look.other.excerpt(int(rng.choice(look.other.body)), look.size, rng)
    if other is None or other == own or len(other) != len(own):
        return None
    texts = " ".join(own), " ".join(other)
    return ("B", texts[::-1]) if swap else ("A", texts)


def _place(look: Look, slot: int, rng: np.random.Generator) -> Answered | None:
    words, at = _around(look, slot, rng), look.window.word_at(look.places[slot])
    if words is None or at is None:
        return None
    word = word_of(trimmed(look.window.words[at]))
    return (word, (" ".join(words),)) if word and alone(words, word) else None


def _around(look: Look, slot: int, rng: np.random.Generator) -> list[str] | None:
    """An excerpt with the place anywhere in it."""
    at = look.window.word_at(look.places[slot])
    return None if at is None else look.window.excerpt(at, look.size, rng)


_TRUTHS: dict[str, Callable[[Look, int, np.random.Generator], Answered | None]] = {
    "here": _here,
    "next": _next,
    "lens": _lens,
    "before": _before,
    "which": _which,
    "place": _place,
}
