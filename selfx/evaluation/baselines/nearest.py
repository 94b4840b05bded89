"""Answers that are looked up, not read from the vector by a model: the rivals in retrieval.

For descriptions, training directions of all layers are looked through, as in the paper's released
code, which takes the largest dot product: long directions win it more often than they are near
(arXiv 2511.08579). For verdicts and words, training examples of the same cell are: what is done to
the target elsewhere is another question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from selfx.evaluation.answers.parsing import normalise
from selfx.interventions.batching import chunks

if TYPE_CHECKING:
    from selfx.tasks.example import Example

_ROWS = 256
_WORD = re.compile(r"\w+")


def commonest(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the train split's most frequent description, the first seen of several."""
    counts = Counter(normalise(example.answer) for example in train)
    best = counts.most_common(1)[0][0]
    answer = next(example.answer for example in train if normalise(example.answer) == best)
    return [answer] * len(test)


def nearest_cosine(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the description of the training direction at the smallest angle to each."""
    return _described(train, _directions(train), test)


def nearest_dot(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the description of the training direction with the largest dot product with each."""
    return _described(train, _vectors(train), test)


def gold(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the true descriptions: what a perfect copy of them would score."""
    return [example.answer for example in test]


def nearest_in_cell(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the answer of the training vector at the smallest angle, of the same cell."""
    known = _directions(train)

    def alike(rows: np.ndarray, some: Sequence[Example]) -> np.ndarray:
        return _vectors(some) @ known[rows].T

    return _nearest_in_cell(train, test, alike)


def nearest_by_text(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the answer of the training question with the nearest words, of the same cell.

    The cosine of counts of words, weighted by how rare each is in the training questions.
    """
    weigh = _Words(train)
    known = weigh(train)

    def alike(rows: np.ndarray, some: Sequence[Example]) -> np.ndarray:
        return (weigh(some) @ known[rows].T).toarray()

    return _nearest_in_cell(train, test, alike)


class _Words:
    """Counts of words, weighted by their rarity in some questions, as rows of length 1."""

    def __init__(self, examples: Sequence[Example]):
        held = Counter(word for example in examples for word in set(_words(example)))
        self.columns = {word: column for column, word in enumerate(held)}
        counts = np.array([*held.values()], float)
        self.weights = np.log((1 + len(examples)) / (1 + counts)) + 1

    def __call__(self, examples: Sequence[Example]) -> csr_array:
        """float64 `[n, w]`; words that were in none of the questions do not count."""
        found = [
            (row, self.columns[word], times)
            for row, example in enumerate(examples)
            for word, times in Counter(_words(example)).items()
            if word in self.columns
        ]
        rows, columns, times = np.array(found, int).reshape(-1, 3).T
        values = times * self.weights[columns]
        lengths = np.sqrt(np.bincount(rows, values**2, minlength=len(examples)))
        shape = (len(examples), len(self.weights))
        return csr_array((values / lengths[rows], (rows, columns)), shape=shape)


def _words(example: Example) -> list[str]:
    return _WORD.findall(example.question.casefold())


def _nearest_in_cell(
    train: Sequence[Example],
    test: Sequence[Example],
    alike: Callable[[np.ndarray, Sequence[Example]], np.ndarray],
) -> list[str]:
    """Returns each one's answer that is most alike of its cell, of all where a cell has none.

    Args:
      train: whose answers are given.
      test: who gets them.
      alike: from rows of `train` and test examples to how alike they are, `[test, rows]`.
    """
    cells, asked = _by_cell(train), _by_cell(test)
    answers = [""] * len(test)
    for cell, places in asked.items():
        rows = np.array(cells.get(cell) or range(len(train)))
        for some in chunks(places, _ROWS):
            best = np.argmax(alike(rows, [test[place] for place in some]), axis=1)
            for place, row in zip(some, best, strict=True):
                answers[place] = train[rows[row]].answer
    return answers


def _by_cell(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Returns the places of each cell's examples."""
    cells: dict[str, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        cells[example.cell].append(place)
    return cells


def _described(train: Sequence[Example], vectors: np.ndarray, test: Sequence[Example]) -> list[str]:
    rows = [
        row for some in chunks(test, _ROWS) for row in np.argmax(_vectors(some) @ vectors.T, axis=1)
    ]
    return [train[row].answer for row in rows]


def _directions(examples: Sequence[Example]) -> np.ndarray:
    """float32 `[n, d]` of length 1, or 0 for a vector of zeros."""
    vectors = _vectors(examples)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _vectors(examples: Sequence[Example]) -> np.ndarray:
    """float32 `[n, d]`."""
    return np.stack([example.vector for example in examples if example.vector is not None])
