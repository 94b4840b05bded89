"""What is known of a feature, in words: stretches of text with its activation at every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfx.features.exemplars.mine import Exemplars, Window
from selfx.features.exemplars.one_pass import KINDS

Kind = Literal["top", "sample", "random"]


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A stretch of text as a model reads it.

    Attributes:
      pieces: the text of every token; joined, they are the text.
      activations: float32 `[t]`, the feature's; 0 where they do not count.
      kind: one of `selfx.features.exemplars.one_pass.KINDS`.
      skip: how many first tokens do not count.
      document: which document it is of; -1 if that is not known.
      start: where in it, in tokens.
      ids: the tokens, where they are known.
    """

    pieces: tuple[str, ...]
    activations: np.ndarray
    kind: str = "top"
    skip: int = 0
    document: int = -1
    start: int = 0
    ids: tuple[int, ...] | None = None

    @property
    def peak(self) -> float:
        """The highest activation."""
        return float(self.activations.max(initial=0.0))

    @property
    def text(self) -> str:
        """The text."""
        return "".join(self.pieces)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that a describer may look at.

    Attributes:
      feature: its number.
      excerpts: where it is on and where not.
      promoted: the tokens whose logits its output raises most.
      suppressed: those it lowers most.
      frequency: the share of tokens at which it is on, or None.
    """

    feature: int
    excerpts: tuple[Excerpt, ...]
    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()
    frequency: float | None = None

    @property
    def peak(self) -> float:
        """The highest activation."""
        return max((excerpt.peak for excerpt in self.excerpts), default=0.0)

    def of(self, kind: str) -> tuple[Excerpt, ...]:
        """The excerpts of one kind."""
        return tuple(excerpt for excerpt in self.excerpts if excerpt.kind == kind)


class Pieces:
    """The text of every token of a tokenizer, spaces before words kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: Iterable[int]) -> tuple[str, ...]:
        """The text of each token."""
        return tuple(self._piece(int(index)) for index in ids)

    def _piece(self, index: int) -> str:
        if index not in self._known:
            name = self._tokenizer.convert_ids_to_tokens(index)
            text = str(self._tokenizer.decode([index]))
            led = isinstance(name, str) and name.startswith("▁") and not text.startswith(" ")
            self._known[index] = f" {text}" if led else text
        return self._known[index]


def excerpt_of(window: Window, pieces: Pieces) -> Excerpt:
    """A window of exemplars, in words."""
    place = window.document, window.start
    ids = tuple(window.ids.tolist())
    return Excerpt(pieces(ids), window.activations, window.kind, window.skip, *place, ids)


def evidence_of(
    exemplars: Exemplars,
    feature: int,
    pieces: Pieces,
    *,
    kinds: Sequence[str] = KINDS,
    promoted: Sequence[str] = (),
    suppressed: Sequence[str] = (),
) -> Evidence:
    """What the exemplars hold of one feature; a stretch may be there once for every kind."""
    found = [excerpt_of(w, pieces) for kind in kinds for w in exemplars.windows(feature, kind)]
    frequency = exemplars.frequency(feature)
    return Evidence(feature, tuple(found), tuple(promoted), tuple(suppressed), frequency)


def once_each(excerpts: Iterable[Excerpt]) -> list[Excerpt]:
    """The excerpts without those that stand there already for another kind."""
    found: dict[tuple[int, int] | int, Excerpt] = {}
    for number, excerpt in enumerate(excerpts):
        known = excerpt.document >= 0
        found.setdefault((excerpt.document, excerpt.start) if known else -1 - number, excerpt)
    return list(found.values())


def halves(evidence: Evidence) -> tuple[Evidence, Evidence]:
    """Every other text of each kind, and the rest: one half to describe from, one to score on.

    A text that is of two kinds goes by its first, so that no text is in both halves.
    """
    sides: dict[tuple[int, int] | int, int] = {}
    counts = dict.fromkeys((excerpt.kind for excerpt in evidence.excerpts), 0)
    parts: tuple[list[Excerpt], list[Excerpt]] = ([], [])
    for number, excerpt in enumerate(evidence.excerpts):
        place = (excerpt.document, excerpt.start) if excerpt.document >= 0 else -1 - number
        side = sides.setdefault(place, counts[excerpt.kind] % 2)
        counts[excerpt.kind] += 1
        parts[side].append(excerpt)
    first, second = (dataclasses.replace(evidence, excerpts=tuple(part)) for part in parts)
    return first, second
