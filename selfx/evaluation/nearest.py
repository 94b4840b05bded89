"""Descriptions that are looked up, not read from the vector by a model: the rivals in retrieval.

Training directions of all layers are looked through, as in the paper's released code, which takes
the largest dot product: long directions win it more often than they are near (arXiv 2511.08579).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selfx.evaluation.parsing import normalise
from selfx.interventions.batching import chunks

if TYPE_CHECKING:
    from selfx.tasks.example import Example

_ROWS = 256


def commonest(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the train split's most frequent description, the first seen of several."""
    counts = Counter(normalise(example.answer) for example in train)
    best = counts.most_common(1)[0][0]
    answer = next(example.answer for example in train if normalise(example.answer) == best)
    return [answer] * len(test)


def nearest_cosine(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the description of the training direction at the smallest angle to each."""
    vectors = _vectors(train)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return _described(train, vectors / np.where(lengths > 0, lengths, 1), test)


def nearest_dot(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the description of the training direction with the largest dot product with each."""
    return _described(train, _vectors(train), test)


def gold(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the true descriptions: what a perfect copy of them would score."""
    return [example.answer for example in test]


def _described(train: Sequence[Example], vectors: np.ndarray, test: Sequence[Example]) -> list[str]:
    rows = [
        row for some in chunks(test, _ROWS) for row in np.argmax(_vectors(some) @ vectors.T, axis=1)
    ]
    return [train[row].answer for row in rows]


def _vectors(examples: Sequence[Example]) -> np.ndarray:
    """float32 `[n, d]`."""
    return np.stack([example.vector for example in examples if example.vector is not None])
