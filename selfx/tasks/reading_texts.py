"""Short stretches of text to read vectors in, and what can be asked of their words."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.exemplars.corpus import start_token
from selfx.features.exemplars.excerpts import Pieces
from selfx.tasks.example import SLOT
from selfx.tasks.plain_words import bare
from selfx.tasks.split import short_hash

LETTERS_A_TOKEN = 16
"""How many letters of a document are cut into tokens for each token wanted."""
FEWEST_WORDS = 4

_START = re.compile(r"(?<!\S)\S")
_WORD = re.compile(r"\S+")


@dataclasses.dataclass(frozen=True)
class Window:
    """Some tokens of a document, read by themselves; they start with a word.

    Attributes:
      document: a name of the document that its text decides.
      ids: the tokens as the model reads them.
      pieces: the text of each; joined they are the text, but for what is put before it.
      lead: how many first tokens are put before the text, none of its own.
    """

    document: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    lead: int

    @functools.cached_property
    def text(self) -> str:
        """The text."""
        return "".join(self.pieces[self.lead :])

    @functools.cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where in the text each of its words is, as white space separates them."""
        return [match.span() for match in _WORD.finditer(self.text)]

    @functools.cached_property
    def words(self) -> list[str]:
        """The words."""
        return [self.text[start:end] for start, end in self.spans]

    @property
    def body(self) -> range:
        """The words that excerpts are made of.

        Not the first: no vector is read at a text's first token. Nor the last, which may be cut.
        """
        return range(1, len(self.words) - 1)

    def places(self) -> range:
        """The tokens that vectors may be read at: the first one's residual is unlike any other."""
        return range(max(self.lead, 1), len(self.ids))

    def word_at(self, place: int) -> int | None:
        """Which word a token is of, or None for white space."""
        end = self._end(place)
        if end is None:
            return None
        word = bisect.bisect_right(self.spans, end - 1, key=lambda span: span[0]) - 1
        return word if word >= 0 and self.spans[word][1] >= end else None

    def said_until(self, place: int, count: int) -> str | None:
        """The last `count` words up to a token, or None where they are fewer or none ends there."""
        word = self.word_at(place)
        if word is None or word + 1 < count or word + 1 >= len(self.words):
            return None
        said = self.words[word + 1 - count : word + 1]
        ends = self._end(place) == self.spans[word][1]
        return " ".join(said) if ends and all(map(_clean, said)) else None

    def excerpt(self, word: int, size: int, rng: np.random.Generator) -> list[str] | None:
        """At most `size` words in a row, with `word` anywhere in them, every place as likely.

        None where the draw reaches over the words that there are, or a word does not print.
        """
        size = min(size, len(self.body))
        start = word - int(rng.integers(max(size, 1)))
        if word not in self.body or start < self.body.start or start + size > self.body.stop:
            return None
        some = self.words[start : start + size]
        return some if all(map(_clean, some)) else None

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Where in the text each token ends."""
        lengths = [0] * self.lead + [len(piece) for piece in self.pieces[self.lead :]]
        return list(itertools.accumulate(lengths))

    def _end(self, place: int) -> int | None:
        """Where a token ends in the text, white space left out; None where that is all it is."""
        shown = self.pieces[place].rstrip()
        if not shown.strip():
            return None
        return self._ends[place] - len(self.pieces[place]) + len(shown)


class Texts:
    """Documents to draw windows from."""

    def __init__(self, tokenizer: Any, documents: Sequence[str], length: int):
        self.documents, self.length, self.tokenizer = documents, length, tokenizer
        self.ends = np.cumsum([len(text) for text in documents])
        self.special = frozenset(tokenizer.all_special_ids)
        bos = start_token(tokenizer)
        self.lead = () if bos is None else (bos,)
        self.pieces = Pieces(tokenizer)
        self.names = functools.cache(lambda number: short_hash(documents[number]))
        if not any(len(text.split()) >= FEWEST_WORDS for text in documents):
            raise SelfxError(
                "no document to ask about", expected=f"texts of at least {FEWEST_WORDS} words"
            )

    def draw(self, rng: np.random.Generator) -> Window | None:
        """A window from any letter on, every letter as likely; None where too few words follow."""
        letter = int(rng.integers(self.ends[-1]))
        number = int(np.searchsorted(self.ends, letter, side="right"))
        document = self.documents[number]
        start = _START.search(document, letter - int(self.ends[number]) + len(document))
        if start is None:
            return None
        room = self.length - len(self.lead)
        text = document[start.start() : start.start() + LETTERS_A_TOKEN * room]
        own = self.tokenizer(text, add_special_tokens=False).input_ids[:room]
        ids = (*self.lead, *own)
        window = Window(
            f"document {self.names(number)}",
            ids,
            (*[""] * len(self.lead), *self.pieces(own)),
            len(self.lead),
        )
        strange = self.special & set(own) or SLOT in window.text
        return None if strange or len(window.words) < FEWEST_WORDS else window


def alone(words: Sequence[str], word: str) -> bool:
    """Whether a word stands once among others, as words are compared."""
    return [bare(other) for other in words].count(bare(word)) == 1


def _clean(word: str) -> bool:
    """Whether a word prints and cannot be taken for the brackets around an excerpt."""
    return word.isprintable() and not set(word) & set("<>\N{REPLACEMENT CHARACTER}")
