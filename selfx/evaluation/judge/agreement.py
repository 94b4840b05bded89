"""How far two judges agree: rank correlations, and kappa with quadratic weights.

Each is a metric as `selfx.evaluation.statistics.rows` has them, of rows with the numbers `a` and
`b`: ratings from 1 to 5, whole or not. A weight counts as so many equal rows, so that a resample's
figure is what the resampled rows would give. Where a judge says the same of everything,
correlations are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from selfx.evaluation.statistics.intervals import Interval, intervals
from selfx.evaluation.statistics.rows import Array, Metric, Numbers, as_weights, ratio

RESAMPLES = 1000
"""Fewer than of scores: a resample of Kendall's tau looks at all pairs of rows."""

_CHUNK = 2_000_000  # signs of pairs held in memory at once


def agreement(a: Array, b: Array, group: Any, *, seed: int = 0) -> dict[str, Interval]:
    """Each measure of how two judges' ratings `[n]` agree, its interval clustered by group."""
    rows = Numbers({"a": np.asarray(a, float), "b": np.asarray(b, float)}, np.asarray(group))
    return intervals(rows, AGREEMENTS, resamples=RESAMPLES, seed=seed)


def spearman(rows: Numbers, weights: Array | None = None) -> Array:
    """Spearman's rank correlation, equal ratings at their mean rank."""
    w = as_weights(len(rows), weights)
    a, b = (_ranks(rows.values[name], w) for name in "ab")
    return ratio(_covariance(a, b, w), np.sqrt(_covariance(a, a, w) * _covariance(b, b, w)))


def kendall(rows: Numbers, weights: Array | None = None) -> Array:
    """Kendall's tau-b, which allows for equal ratings."""
    w = as_weights(len(rows), weights)
    columns = [rows.values[name] for name in "ab"]
    sums = np.zeros((3, *w.shape[:-1]))
    step = max(1, _CHUNK // max(len(rows), 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        a, b = (np.sign(column[:, None] - column[None, part]) for column in columns)
        for row, signs in enumerate((a * b, a * a, b * b)):
            sums[row] += ((w @ signs) * w[..., part]).sum(-1)
    return ratio(sums[0], np.sqrt(sums[1] * sums[2]))


def kappa(rows: Numbers, weights: Array | None = None) -> Array:
    """Cohen's kappa of the ratings rounded to whole ones, disagreement weighed by its square."""
    w = as_weights(len(rows), weights)
    a, b = (np.round(rows.values[name]) for name in "ab")

    def mean(column: Array) -> Array:
        return ratio(w @ column, w.sum(-1))

    by_chance = mean(a**2) + mean(b**2) - 2 * mean(a) * mean(b)
    return 1 - ratio(mean((a - b) ** 2), np.where(by_chance > 1e-12, by_chance, 0.0))


AGREEMENTS: Mapping[str, Metric] = {"spearman": spearman, "kendall": kendall, "kappa": kappa}


def _ranks(column: Array, weights: Array) -> Array:
    """`[..., n]`: the mean rank of each row among rows counted by their weights."""
    values, which = np.unique(column, return_inverse=True)
    table = np.zeros((len(column), len(values)))
    table[np.arange(len(column)), which.reshape(-1)] = 1
    counts = weights @ table
    return (np.cumsum(counts, -1) - counts / 2)[..., which.reshape(-1)]


def _covariance(a: Array, b: Array, weights: Array) -> Array:
    """Of two columns `[..., n]` under the weights; 0 where rounding is all that there is of it."""
    means = [ratio((weights * x).sum(-1), weights.sum(-1)) for x in (a, b)]
    parts = [x - mean[..., None] for x, mean in zip((a, b), means, strict=True)]
    return (weights * parts[0] * parts[1]).sum(-1)
