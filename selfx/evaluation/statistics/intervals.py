"""Percentile bootstrap intervals, clustered by group, for one score or for a paired difference.

Questions about one subject stand or fall together, so whole groups are resampled. Metrics see rows
only through their weights, so rows with the same outcome are merged first, and a resample is the
weights of the few distinct outcomes: resampling is one product, counts of groups `[r, g]` times
outcomes in groups `[g, k]`. A metric of your own must therefore use nothing but its two arguments.
Scores that are numbers are hardly ever equal: then each row stays, weighted as its group is drawn.

The percentile bootstrap is too narrow where groups are few: its spread is that of the sample, short
of the population's by √((g-1)/g), and it knows no t. So it is expanded (Hesterberg, arXiv
1411.5279, §3.2): the quantiles taken are those of a normal distribution at √(g/(g-1)) times
Student's t with g-1 degrees of freedom. In simulations of clustered answers intervals that say 95 %
then hold the truth in 93 to 97 % of cases with 20 groups or more, in 92 to 96 % with 8 to 12, where
BCa, plain percentiles and t on the bootstrap's standard error all hold it less often.

What is left: a score of exactly 0 or 1 gets an interval of no width, and with 5 groups a score's
interval holds the truth in 89 to 93 %. With one group only, nothing can be resampled but its rows,
and that is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import METRICS
from selfx.evaluation.statistics.rows import Array, Metric, Rows

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 2_000_000  # group counts held in memory at once


class Interval(TypedDict):
    """A score and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """Outcomes of several explainers on the same examples, drawn again and again.

    Attributes:
        rows: of each explainer, the `k` rows that are distinct in some of them.
        weights: `[1 + r, k]`; the first are the data's own.
        groups: how many clusters were drawn from.
    """

    rows: list[Any]
    weights: Array
    groups: int


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
    drawn = resample([outcomes], resamples, seed)
    scores = {name: metric(drawn.rows[0], drawn.weights) for name, metric in metrics.items()}
    return {name: summary(found, drawn.groups, level) for name, found in scores.items()}


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
    drawn, scores = _differences(a, b, metrics, resamples, seed)
    return {name: summary(found, drawn.groups, level) for name, found in scores.items()}


def paired_errors(
    a: Rows,
    b: Rows,
    metrics: Mapping[str, Metric] = METRICS,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, float], int]:
    """Returns the standard error of each metric's difference a - b, and the number of clusters."""
    drawn, scores = _differences(a, b, metrics, resamples, seed)
    # The bootstrap's spread is that of the sample, short of the population's.
    wider = math.sqrt(drawn.groups / max(drawn.groups - 1, 1))
    errors = {name: wider * float(np.nanstd(found[1:])) for name, found in scores.items()}
    return errors, drawn.groups


def summary(scores: Array, groups: int, level: float = LEVEL) -> Interval:
    """Returns the first score with the expanded interval of the others, NaN among them left out.

    Args:
        scores: `[1 + r]`, that of the data and those of the resamples.
        groups: how many clusters these were drawn from.
        level: the share of intervals that are to hold the truth.
    """
    if not 0 < level < 1:
        raise SelfxError(f"level={level}", expected="a share between 0 and 1", hint="0.95")
    found = scores[1:][~np.isnan(scores[1:])]
    tail = _tail(groups, level)
    low, high = np.quantile(found, [tail, 1 - tail]) if len(found) else (np.nan, np.nan)
    return Interval(value=float(scores[0]), low=float(low), high=float(high))


def _tail(groups: int, level: float) -> float:
    """Returns the share of resamples to leave out on either side."""
    if groups < 2:
        return (1 - level) / 2
    reach = stats.t.ppf((1 + level) / 2, groups - 1) * math.sqrt(groups / (groups - 1))
    return float(stats.norm.sf(reach))


def _differences(
    a: Rows, b: Rows, metrics: Mapping[str, Metric], resamples: int, seed: int
) -> tuple[Resampled, dict[str, Array]]:
    """Returns the resamples, and each metric's difference in each of them `[1 + r]`."""
    check_same_examples(a, b)
    drawn = resample([a, b], resamples, seed)
    (one, other), weights = drawn.rows, drawn.weights
    return drawn, {
        name: metric(one, weights) - metric(other, weights) for name, metric in metrics.items()
    }


def resample(parallel: Sequence[Rows], resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Returns parallel outcomes drawn again, whole clusters at a time.

    Rows that are equal everywhere are merged; where most are distinct, all are returned.
    """
    n = len(parallel[0])
    if n == 0:
        raise SelfxError("no examples", expected="at least one", hint="a test split with rows")
    if resamples < 1:
        raise SelfxError(f"resamples={resamples}", expected="at least 1", hint=str(RESAMPLES))
    first, profile = distinct(parallel)
    group = group_index(parallel[0].group, n)
    counts = _draws(group.max() + 1, resamples, seed)
    if 2 * len(first) > n:
        first = np.arange(n)
        own, drawn = np.ones(n), [drawn[:, group] for drawn in counts]
    else:
        table = np.zeros((group.max() + 1, len(first)))
        np.add.at(table, (group, profile), 1)
        own, drawn = table.sum(0), [drawn @ table for drawn in counts]
    weights = np.concatenate([own[None], *drawn])
    return Resampled([rows.take(first) for rows in parallel], weights, int(group.max()) + 1)


def distinct(parallel: Sequence[Rows]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the first row of each distinct outcome `[k]`, and which of them each row is `[n]`."""
    table = np.stack([column for rows in parallel for column in rows.columns().values()], axis=1)
    _, first, profile = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first, profile.reshape(-1)


def group_index(group: NDArray[Any] | None, n: int) -> NDArray[np.intp]:
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


def check_same_examples(a: Rows, b: Rows) -> None:
    """Raises SelfxError where two explainers' rows are not of the same examples."""
    pairs = (a.truth(), b.truth()), (a.group, b.group)
    same = all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)
    if len(a) != len(b) or not same:
        raise SelfxError(
            "outcomes of different examples",
            expected="two explainers on the same examples, in the same order",
            hint="score both on one list of examples",
        )
