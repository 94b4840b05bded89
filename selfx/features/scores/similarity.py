"""How alike two descriptions are, offline: the cosine of their embeddings.

An embedder is any callable from texts to unit vectors. `Tfidf` needs no model and sees shared words
only; `MiniLm` is a sentence encoder that sees meaning, where its files are.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from selfx.features.descriptions.words import stem

_WORD = re.compile(r"[^\W_]+|[^\w\s]")


class Embedder(Protocol):
    """Puts texts where alike ones are near."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 `[m, e]`: rows of length 1, or 0 for a text without anything."""
        ...


@dataclasses.dataclass(frozen=True)
class Tfidf:
    """Counts of word stems, weighted by how rare each is among the texts it was made from.

    Attributes:
      weights: `{stem: weight}`.
      unseen: the weight of a stem that is in none of them.
    """

    weights: dict[str, float]
    unseen: float

    @classmethod
    def of(cls, texts: Sequence[str]) -> Tfidf:
        """The embedder for descriptions like these."""
        counts = Counter(found for text in texts for found in set(_stems(text)))
        total = 1 + len(texts)
        weights = {found: math.log(total / (1 + n)) + 1 for found, n in counts.items()}
        return cls(weights, math.log(total) + 1)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 `[m, e]`, `e` the number of stems in these texts."""
        counts = [Counter(_stems(text)) for text in texts]
        columns = {found: i for i, found in enumerate(sorted(set().union(*counts)))}
        table = np.zeros((len(texts), len(columns)), np.float32)
        for row, counted in zip(table, counts, strict=True):
            for found, n in counted.items():
                row[columns[found]] = n * self.weights.get(found, self.unseen)
        return unit(table)


def similarity(
    embedder: Embedder, predicted: Sequence[str], expected: Sequence[Sequence[str]]
) -> np.ndarray:
    """float32 `[n]`: the cosine of each description with its nearest true one; 0 without any."""
    truths = [other for others in expected for other in others]
    rows = embedder([*predicted, *truths])
    owner = np.repeat(np.arange(len(expected)), [len(others) for others in expected])
    cosines = (rows[: len(predicted)][owner] * rows[len(predicted) :]).sum(axis=1)
    best = np.full(len(predicted), -np.inf, np.float32)
    np.maximum.at(best, owner, cosines.astype(np.float32))
    return np.where(np.isfinite(best), best, 0.0).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def _stems(text: str) -> list[str]:
    return [stem(found) for found in _WORD.findall(text)]
