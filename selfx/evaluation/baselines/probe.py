"""Linear probes: what a ridge regression reads from the vectors, and no model that writes.

One that reads as much as the explainer leaves nothing to its being a language model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selfx.evaluation.baselines.constant import majority_per_cell
from selfx.evaluation.baselines.shifted import by_scores, level, scores_of
from selfx.ridge import fit_ridge
from selfx.tasks.graded import WITHOUT, keeps_scores
from selfx.tasks.plain_words import bare

if TYPE_CHECKING:
    from selfx.tasks.example import Example

MOST = 500
"""Answers that a probe of words tells apart: the commonest."""


def probe_verdicts(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the probe's verdict on each, with the commonest content of that verdict in its cell.

    The content is the best constant of the training examples of the cell that have the verdict.
    Where a trace keeps the target's scores, it is these that are read, and all follows from them.
    """
    if keeps_scores(train):
        return by_scores(_read_off(train, test, scores_of(train, WITHOUT)) - level(train), test)
    wanted = np.array([1.0 if example.changed else -1.0 for example in train])[:, None]
    changed = _read_off(train, test, wanted)[:, 0] > 0
    answers = [""] * len(test)
    for verdict in (True, False):
        rows = np.flatnonzero(changed == verdict).tolist()
        like = [example for example in train if example.changed == verdict] or train
        said = majority_per_cell(like, [test[row] for row in rows])
        for row, answer in zip(rows, said, strict=True):
            answers[row] = answer
    return answers


def probe_words(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the likeliest of the commonest answers to each kind of question, one against the
    others; a kind that was not trained on gets nothing."""
    answers = [""] * len(test)
    asked, known = _by_ask(test), _by_ask(train)
    for ask, places in asked.items():
        if ask in known:
            some = [train[place] for place in known[ask]]
            said = _told_apart(some, [test[place] for place in places])
            for place, answer in zip(places, said, strict=True):
                answers[place] = answer
    return answers


def _told_apart(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the likeliest answers to one kind of question."""
    words: dict[str, str] = {}
    for example in train:
        words.setdefault(bare(example.answer), example.answer)
    counts = Counter(bare(example.answer) for example in train)
    chosen = [word for word, _ in counts.most_common(MOST)]
    said = np.array([bare(example.answer) for example in train], dtype=object)
    wanted = np.stack([np.where(said == word, 1.0, -1.0) for word in chosen], axis=1)
    best = _read_off(train, test, wanted).argmax(axis=1)
    return [words[chosen[row]] for row in best]


def _read_off(train: Sequence[Example], test: Sequence[Example], wanted: np.ndarray) -> np.ndarray:
    """Returns what is read of `wanted` `[n, c]` in the test vectors, float64 `[k, c]`.

    Of the features centred in each cell, and those centred in none, by those that do better on
    groups that are left out.
    """
    groups = [example.group for example in train]
    both = [_features(train, test, apart=apart) for apart in (True, False)]
    fits = [fit_ridge(known, wanted, groups) for known, _ in both]
    best = min(range(len(fits)), key=lambda which: fits[which].error)
    return fits[best](both[best][1])


def _features(
    train: Sequence[Example], test: Sequence[Example], *, apart: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 `[n, d]` of both: directions, the logs of lengths, and the cells.

    Directions and lengths are centred, `apart` in each cell: where cells are layers these differ in
    their means more than the examples of one do. A cell that the train split lacks has the mean of
    all.
    """
    known, asked = _read(train), _read(test)
    cells = sorted({example.cell for example in train})
    column = {cell: number for number, cell in enumerate(cells)}
    belongs = np.array([column[example.cell] for example in train])
    means = np.stack([known[belongs == cell].mean(axis=0) for cell in range(len(cells))])
    if not apart:
        means[:] = known.mean(axis=0)
    known = known - means[belongs]
    overall = means.mean(axis=0)
    rows = [column.get(example.cell) for example in test]
    asked = asked - np.stack([overall if row is None else means[row] for row in rows])
    spread = known.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    indicators = np.vstack([np.eye(len(cells)), np.zeros(len(cells))])
    last = [len(cells) if row is None else row for row in rows]
    return (
        np.hstack([known / spread, indicators[belongs]]),
        np.hstack([asked / spread, indicators[last]]),
    )


def _read(examples: Sequence[Example]) -> np.ndarray:
    """Returns float64 `[n, m (d + 1)]`: of each vector its direction, and the log of its length.

    Of examples with fewer vectors than others the last are taken: as many as all have.
    """
    held = [e.vectors for e in examples if e.vectors is not None]
    fewest = min(map(len, held))
    vectors = np.stack([each[-fewest:] for each in held]).astype(float)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    whole = np.where(lengths > 0, lengths, 1)
    return np.concatenate([vectors / whole, np.log(whole)], axis=-1).reshape(len(held), -1)


def _by_ask(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Returns the places of each kind of question."""
    asks: dict[str, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        asks[example.details["ask"]].append(place)
    return asks
