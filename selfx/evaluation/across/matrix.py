"""Self against cross: explainers of several models on several targets, side by side.

A cell is an explainer on a target, trained with one or more seeds; its score is the mean over them.
What counts is the paired difference, self minus cross, on one target: two targets' questions are
not equally hard. Intervals draw clusters of questions and, where there are several, seeds anew, as
`selfx.evaluation.statistics.seeds` does: the seeds of two explainers have nothing in common, the
questions are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import Kind
from selfx.evaluation.reread import Reread, reread
from selfx.evaluation.statistics.intervals import RESAMPLES, resample, summary
from selfx.evaluation.statistics.paired import swap_test
from selfx.evaluation.statistics.power import smallest_difference
from selfx.evaluation.statistics.rows import Array, Metric, Rows


@dataclass(frozen=True)
class Entry:
    """An evaluation in the matrix.

    Attributes:
        target: the model explained.
        explainer: the model that the explainer was made from; the target's name makes it self.
        seed: of its training.
        folder: of the evaluation.
    """

    target: str
    explainer: str
    seed: int
    folder: Path


@dataclass(frozen=True)
class Seeds:
    """Outcomes of runs that differ by their seed alone, on the same examples.

    Attributes:
        parts: of each run.
    """

    parts: tuple[Any, ...]

    @property
    def group(self) -> NDArray[Any] | None:
        """`[n]` the cluster of each example."""
        return self.parts[0].group

    def __len__(self) -> int:
        return len(self.parts[0])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Returns the columns of every run."""
        return {
            f"{number} {name}": column
            for number, part in enumerate(self.parts)
            for name, column in part.columns().items()
        }

    def truth(self) -> NDArray[Any] | None:
        """Returns what all runs have in common."""
        return self.parts[0].truth()

    def take(self, rows: NDArray[np.intp]) -> Seeds:
        """Returns some of the rows, without their groups."""
        return Seeds(tuple(part.take(rows) for part in self.parts))

    def join(self, other: Seeds) -> Seeds:
        """Returns these rows and then those of another, run by run, without their groups."""
        pairs = zip(self.parts, other.parts, strict=True)
        return Seeds(tuple(one.join(two) for one, two in pairs))


def mean_over_seeds(metric: Metric) -> Metric:
    """Returns the metric of `Seeds` that is the mean of a metric over them."""

    def mean(rows: Seeds, weights: Array | None = None) -> Array:
        return np.mean([metric(part, weights) for part in rows.parts], axis=0)

    return mean


def matrix(
    entries: Sequence[Entry], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Returns `cells`, each with its scores, and `differences`, self minus cross on each target.

    A difference has an interval for every metric, the `smallest` true difference that such runs
    would have shown in four of five, and, by the headline, a `test`: clusters swapped between self
    and cross, with the seeds as they are.

    Args:
        entries: the evaluations, those of a target all of one trace and one draw of questions, each
            explainer with as many seeds.
        resamples: of the bootstrap.
        seed: of the bootstrap and the test.

    Raises:
        SelfxError: evaluations of different tasks, of different questions on one target, or with
            fewer seeds than others.
    """
    read = {entry: reread(entry.folder) for entry in entries}
    kind = _common(read)
    found: dict[str, Any] = {
        "task": next(iter(read.values())).scores["task"],
        "headline": kind.headline,
        "cells": [],
        "differences": [],
    }
    for target in dict.fromkeys(entry.target for entry in entries):
        row = _Row(target, read, kind, resamples, seed)
        found["cells"] += [row.cell(explainer) for explainer in row.parts]
        found["differences"] += [row.difference(other) for other in row.others]
    return found


def _common(read: Mapping[Entry, Reread]) -> Kind:
    """Returns the kind of all answers, once all are found to be comparable."""
    tasks = sorted({each.scores["task"] for each in read.values()})
    if len(tasks) != 1:
        raise SelfxError(f"evaluations of {', '.join(tasks) or 'nothing'}", expected="of one task")
    asked: dict[str, tuple[str, ...]] = {}
    for entry, each in read.items():
        if asked.setdefault(entry.target, each.ids) != each.ids:
            raise SelfxError(
                f"{entry.folder} asks other questions of {entry.target} than the others",
                expected="one trace, one limit and one seed of the draw for each target",
            )
    return next(iter(read.values())).kind


class _Row:
    """All explainers of one target, on the same resamples of its questions.

    Attributes:
        parts: of each explainer, the runs by seed.
    """

    def __init__(
        self,
        target: str,
        read: Mapping[Entry, Reread],
        kind: Kind,
        resamples: int,
        seed: int,
    ):
        self.target, self.kind, self.seed = target, kind, seed
        self.parts: dict[str, dict[int, Reread]] = {}
        for entry, each in read.items():
            if entry.target == target:
                self.parts.setdefault(entry.explainer, {})[entry.seed] = each
        self._check()
        names = [(name, number) for name, runs in self.parts.items() for number in runs]
        rows = [self.parts[name][number].rows for name, number in names]
        self.metrics = _metrics(kind, rows[0])
        drawn = resample(rows, resamples, seed)
        self.groups, self.n = drawn.groups, len(rows[0])
        self._rows = dict(zip(names, drawn.rows, strict=True))
        self._weights = drawn.weights

    @property
    def others(self) -> list[str]:
        """The explainers that are not the target, where it has one of its own."""
        return [name for name in self.parts if name != self.target and self.target in self.parts]

    def cell(self, explainer: str) -> dict[str, Any]:
        """Returns the scores of an explainer."""
        runs, headline = self.parts[explainer], self.kind.headline
        lifts = [run.scores["lift"]["metrics"] for run in runs.values() if run.scores.get("lift")]
        return {
            "target": self.target,
            "explainer": explainer,
            "self": explainer == self.target,
            "n": self.n,
            "metrics": {
                name: summary(self._means(explainer, name), self.groups) for name in self.metrics
            },
            "by_seed": {str(s): run.kind.headline_of(run.rows) for s, run in runs.items()},
            "lift_by_seed": [lift[headline]["value"] for lift in lifts],
        }

    def difference(self, other: str) -> dict[str, Any]:
        """Returns how much better self is than another explainer."""
        moved = {n: self._means(self.target, n) - self._means(other, n) for n in self.metrics}
        metric = mean_over_seeds(self.metrics[self.kind.headline])
        test = swap_test(metric, self._seeds(self.target), self._seeds(other), seed=self.seed)
        scale = np.sqrt(self.groups / max(self.groups - 1, 1))
        return {
            "target": self.target,
            "other": other,
            "metrics": {name: summary(scores, self.groups) for name, scores in moved.items()},
            "smallest": {
                name: smallest_difference(float(np.nanstd(scores[1:]) * scale), self.groups)
                for name, scores in moved.items()
            },
            "test": test.to_json(),
        }

    def _means(self, explainer: str, metric: str) -> Array:
        """Returns `[1 + r]`, the mean over seeds, these drawn anew for each but the first."""
        runs = list(self.parts[explainer])
        found = [self.metrics[metric](self._rows[explainer, s], self._weights) for s in runs]
        return (np.stack(found, axis=1) * self._times(explainer, len(found[0]) - 1)).sum(axis=1)

    def _times(self, explainer: str, resamples: int) -> Array:
        """Returns `[1 + r, s]`: how much each seed counts; of `s` of them `s - 1` are drawn."""
        count = len(self.parts[explainer])
        if count == 1:
            return np.ones((1 + resamples, 1))
        rng = np.random.default_rng((self.seed, 3, list(self.parts).index(explainer)))
        picked = rng.integers(count, size=(resamples, count - 1))
        times = (picked[:, :, None] == np.arange(count)).mean(axis=1)
        return np.concatenate([np.full((1, count), 1 / count), times])

    def _seeds(self, explainer: str) -> Seeds:
        return Seeds(tuple(run.rows for run in self.parts[explainer].values()))

    def _check(self) -> None:
        counts = {name: len(runs) for name, runs in self.parts.items()}
        if len(set(counts.values())) > 1:
            raise SelfxError(f"seeds of explainers of {self.target}: {counts}", expected="as many")


def _metrics(kind: Kind, rows: Rows) -> dict[str, Metric]:
    """Returns the measures of which there is a column for each example."""
    held = getattr(rows, "values", None)
    return {name: metric for name, metric in kind.metrics.items() if held is None or name in held}
