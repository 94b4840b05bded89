"""Which patches are tried for a contrast set: places in texts, and what is written there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.interventions.sources import Spot
from selfx.tasks import facts as F
from selfx.tasks.reading_texts import Texts
from selfx.tasks.split import split_of

PARTNERS, STRANGERS = 4, 4
"""Sources of each place: texts of the same relation, and unrelated ones."""
MIXED, DILUTED = 4, 4
"""Blends of two sources, and of a source with what stands in the place itself."""
SCALED = 0.25
"""Share of blends that are made longer or shorter, by up to a factor of two."""
LENGTH = 24
"""Tokens of an unrelated text."""
TRIES = 8


@dataclasses.dataclass(frozen=True)
class Part:
    """Where a vector is read, and by how much it counts.

    Attributes:
      spot: tokens and position.
      text: those tokens.
      says: what the text would be continued with, "" where nobody knows.
      weight: what the vector is multiplied by.
    """

    spot: Spot
    text: str
    says: str = ""
    weight: float = 1.0

    def times(self, weight: float) -> Part:
        """The same, counting `weight` times as much."""
        return dataclasses.replace(self, weight=self.weight * weight)


@dataclasses.dataclass(frozen=True)
class Blend:
    """What is written: the weighted sum of its parts' vectors."""

    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A text, a token of it and some layers; with the blends that are tried there.

    Attributes:
      fact: what the text is about.
      ids: its tokens.
      position: which token.
      token_type: what kind of token that is.
      layers: all are given the same vector.
      split: of everything in it.
      blends: of sources of the same split.
    """

    fact: F.Fact
    ids: tuple[int, ...]
    position: int
    token_type: str
    layers: tuple[int, ...]
    split: str
    blends: tuple[Blend, ...]


class Drawer:
    """Draws cells; test subjects and test texts stay among themselves."""

    def __init__(
        self,
        tokenizer: Any,
        facts: Sequence[F.Fact],
        documents: Sequence[str],
        layers: Sequence[tuple[int, ...]],
        *,
        seed: int,
        test_share: float,
    ):
        self.layers, self.seed, self.test_share = layers, seed, test_share
        self.partners = F.partners(facts, seed, test_share)
        if not self.partners:
            raise SelfxError("no two facts of one relation and one split to exchange")
        self.bases = list(self.partners)
        self.places = functools.cache(functools.partial(F.completion_places, tokenizer))
        self.texts = Texts(tokenizer, documents, LENGTH)

    def cell(self, rng: np.random.Generator) -> Cell | None:
        """A random place with its blends, or None where the draw meets none."""
        base = self.bases[rng.integers(len(self.bases))]
        kinds = F.TOKEN_TYPES["completion"]
        kind = kinds[rng.integers(len(kinds))]
        layers = self.layers[int(rng.integers(len(self.layers)))]
        found = self.places(base)
        if found is None or not found.at[kind]:
            return None
        position = _one(found.at[kind], rng)
        split = self._split(base.subject)
        sources = [*self._related(base, kind, rng), *self._unrelated(split, rng)]
        if len(sources) < 2:
            return None
        here = Part((found.ids, position), base.prompt, base.attribute)
        return Cell(base, found.ids, position, kind, layers, split, _blends(here, sources, rng))

    def _related(self, base: F.Fact, kind: str, rng: np.random.Generator) -> list[Part]:
        """The same kind of token in texts of the same relation, each subject once."""
        others = self.partners[base]
        found = []
        for index in rng.permutation(len(others))[:PARTNERS]:
            places = self.places(others[index])
            if places is not None and places.at[kind]:
                spot = places.ids, _one(places.at[kind], rng)
                found.append(Part(spot, others[index].prompt, others[index].attribute))
        return found

    def _unrelated(self, split: str, rng: np.random.Generator) -> list[Part]:
        """Any token of any text."""
        found: list[Part] = []
        for _ in range(STRANGERS * TRIES):
            window = self.texts.draw(rng)
            if window is not None and self._split(window.document) == split:
                found.append(Part((window.ids, _one(window.places(), rng)), window.text))
            if len(found) == STRANGERS:
                break
        return found

    def _split(self, name: str) -> str:
        return split_of(name, self.seed, self.test_share)


def _blends(here: Part, sources: Sequence[Part], rng: np.random.Generator) -> tuple[Blend, ...]:
    """Every source alone, some in pairs, some together with what is there already."""
    parts: list[tuple[Part, ...]] = [(source,) for source in sources]
    for _ in range(MIXED):
        one, other = rng.permutation(len(sources))[:2]
        share = rng.uniform(0.3, 0.7)
        parts.append((sources[one].times(share), sources[other].times(1 - share)))
    for _ in range(DILUTED):
        share = rng.uniform(0.3, 0.9)
        parts.append((_one(sources, rng).times(1 - share), here.times(share)))
    lengths = np.where(rng.random(len(parts)) < SCALED, 2 ** rng.uniform(-1, 1, len(parts)), 1.0)
    return tuple(
        Blend(tuple(part.times(float(length)) for part in some))
        for some, length in zip(parts, lengths, strict=True)
    )


def _one(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]
