"""Percentile bootstrap intervals, clustered by group, for one score or for a paired difference.

Questions about one subject stand or fall together, so whole groups are resampled. Metrics see rows
only through their weights, so rows with the same outcome are merged first, and a resample is the
weights of the few distinct outcomes: resampling is one product, counts of groups `[r, g]` times
outcomes in groups `[g, k]`. A metric of your own must therefore use nothing but its two arguments.
Scores that are numbers are hardly ever equal: then each row stays, weighted as its group is drawn.

Two limits of the percentile bootstrap: a score of exactly 0 or 1 gets an interval of no width, and
with few groups (under 20, say) intervals come out too narrow. With one group only, nothing can be
resampled but its rows, and that is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.metrics import METRICS
from selfx.evaluation.rows import Array, Metric, Rows

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 2_000_000  # group counts held in memory at once


class Interval(TypedDict):
    """A score and its bootstrap interval."""

    value: float
    low: float
    high: float


def interval(
    metric: Metric,
    outcomes: Rows,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Returns the metric with its interval."""
    one = {"score": metric}
    return intervals(outcomes, one, resamples=resamples, seed=seed, level=level)["score"]


def intervals(
    outcomes: Rows,
    metrics: Mapping[str, Metric] = METRICS,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Returns each metric with its interval, all from the same resamples."""
    (rows,), weights = _resample([outcomes], resamples, seed)
    return {name: _summary(metric(rows, weights), level) for name, metric in metrics.items()}


def paired_difference(
    metric: Metric,
    a: Rows,
    b: Rows,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Returns metric(a) - metric(b) with its interval, for two explainers on the same examples.

    Both are scored on the same resamples, so what is common to them (easy and hard questions)
    cancels out.
    """
    one = {"score": metric}
    return paired_differences(a, b, one, resamples=resamples, seed=seed, level=level)["score"]


def paired_differences(
    a: Rows,
    b: Rows,
    metrics: Mapping[str, Metric] = METRICS,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Returns each metric's difference a - b with its interval, all from the same resamples."""
    _check_same_examples(a, b)
    (one, other), weights = _resample([a, b], resamples, seed)
    return {
        name: _summary(metric(one, weights) - metric(other, weights), level)
        for name, metric in metrics.items()
    }


def _summary(scores: Array, level: float) -> Interval:
    """Returns the first score with the interval of the others."""
    if not 0 < level < 1:
        raise SelfxError(f"level={level}", expected="a share between 0 and 1", hint="0.95")
    low, high = np.quantile(scores[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(scores[0]), low=float(low), high=float(high))


def _resample(parallel: Sequence[Rows], resamples: int, seed: int) -> tuple[list[Rows], Array]:
    """Returns the `k` distinct rows of parallel outcomes, and weights `[1 + resamples, k]`.

    The first weights are the data's own. Where most rows are distinct, all are returned.
    """
    n = len(parallel[0])
    if n == 0:
        raise SelfxError("no examples", expected="at least one", hint="a test split with rows")
    if resamples < 1:
        raise SelfxError(f"resamples={resamples}", expected="at least 1", hint=str(RESAMPLES))
    first, profile = _distinct(parallel)
    group = _group_index(parallel[0].group, n)
    counts = _draws(group.max() + 1, resamples, seed)
    if 2 * len(first) > n:
        first = np.arange(n)
        own, drawn = np.ones(n), [drawn[:, group] for drawn in counts]
    else:
        table = np.zeros((group.max() + 1, len(first)))
        np.add.at(table, (group, profile), 1)
        own, drawn = table.sum(0), [drawn @ table for drawn in counts]
    return [rows.take(first) for rows in parallel], np.concatenate([own[None], *drawn])


def _distinct(parallel: Sequence[Rows]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the first row of each distinct outcome `[k]`, and which of them each row is `[n]`."""
    table = np.stack([column for rows in parallel for column in rows.columns().values()], axis=1)
    _, first, profile = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first, profile.reshape(-1)


def _group_index(group: NDArray[Any] | None, n: int) -> NDArray[np.intp]:
    """Returns the number of each row's group; rows stand alone without groups, or with only one."""
    alone = np.arange(n)
    index = alone if group is None else np.unique(group, return_inverse=True)[1]
    return index if index.max() > 0 else alone


def _draws(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yields how often each group was drawn, in chunks of `[r, groups]` (multinomial samples)."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // groups)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * groups)
        yield counts.reshape(rows, groups).astype(np.float64)


def _check_same_examples(a: Rows, b: Rows) -> None:
    pairs = (a.truth(), b.truth()), (a.group, b.group)
    same = all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)
    if len(a) != len(b) or not same:
        raise SelfxError(
            "outcomes of different examples",
            expected="two explainers on the same examples, in the same order",
            hint="score both on one list of examples",
        )
