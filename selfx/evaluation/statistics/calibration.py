"""Does an explainer know when it is right? Its confidence in its answers against how they fared.

The rows are `Numbers` of two columns: `confidence`, the probability that an explainer gave to its
own answer, and `right`, 1 or 0. All scores are metrics as `selfx.evaluation.statistics.rows` has
them. The headline is `ece`: the expected calibration error over 15 bins of equal width (Guo et al.,
ICML 2017), what most figures in print are; beside it 10 such bins, and 15 of equal mass, which no
empty bin can flatter. An ECE of few answers is never 0, since chance alone moves every bin:
`ece_by_chance` is what an explainer with these very confidences would have on average if each were
the truth.

Risk and coverage: answering only where it is surest, what share of its answers is wrong? AURC is
the mean risk over all coverages (Geifman and El-Yaniv, ICLR 2019); equal confidences count as taken
in random order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from selfx.errors import SelfxError
from selfx.evaluation.statistics.intervals import RESAMPLES, Interval, intervals
from selfx.evaluation.statistics.rows import Array, Metric, Numbers, as_weights, mean_of, ratio

BINS = 15
HEADLINE = "ece"
CURVE = 100
"""Points of a risk-coverage curve, at most."""


def calibrated(
    confidence: Array, right: NDArray[Any], group: NDArray[Any] | None = None
) -> Numbers:
    """Returns the rows that calibration is measured on.

    Args:
        confidence: `[n]`, from 0 to 1.
        right: `[n]`, whether each answer was.
        group: `[n]` the cluster of each.
    """
    confidence = np.asarray(confidence, np.float64)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise SelfxError("a confidence outside 0 to 1", expected="probabilities")
    return Numbers({"confidence": confidence, "right": np.asarray(right, np.float64)}, group)


def ece(bins: int = BINS) -> Metric:
    """Returns the metric that is the calibration error over bins of equal width, each with its
    upper bound and without its lower."""

    def error(rows: Numbers, weights: Array | None = None) -> Array:
        place = _widths(rows.values["confidence"], bins)
        one_hot = (place[:, None] == np.arange(bins)).astype(np.float64)
        weights = as_weights(len(rows), weights)
        return ratio(np.abs(weights @ (one_hot * _gap(rows)[:, None])).sum(-1), weights.sum(-1))

    return error


def ece_by_mass(bins: int = BINS) -> Metric:
    """Returns the metric that is the calibration error over bins of as many answers each."""

    def error(rows: Numbers, weights: Array | None = None) -> Array:
        # Equal confidences stand in an order that does not hang on that of the rows.
        order = np.lexsort((rows.values["right"], rows.values["confidence"]))
        weights, gap = as_weights(len(rows), weights)[..., order], _gap(rows)[order]
        whole, reached = weights.sum(-1), weights.cumsum(-1)
        middle = ratio(reached - weights / 2, whole[..., None])
        place = np.minimum(np.nan_to_num(middle) * bins, bins - 1).astype(int)
        parts = [np.abs((weights * gap * (place == each)).sum(-1)) for each in range(bins)]
        return ratio(np.sum(parts, axis=0), whole)

    return error


def brier(rows: Numbers, weights: Array | None = None) -> Array:
    """Returns the mean squared distance of confidence from outcome."""
    weights = as_weights(len(rows), weights)
    return ratio(weights @ _gap(rows) ** 2, weights.sum(-1))


def aurc(rows: Numbers, weights: Array | None = None) -> Array:
    """Returns the mean over all coverages of the share of wrong answers among the surest.

    A weight of w counts as w answers of equal confidence. Where W answers tie after C surer ones of
    which S were wrong, E of them wrong themselves, the j-th of them stands at an expected risk of
    (S + E j/W) / (C + j); the sum over j is E + (S - C E/W) (H(C+W) - H(C)), H harmonic numbers.
    """
    wrong, all_of = _ties(rows, as_weights(len(rows), weights))
    errors, size = wrong.cumsum(-1) - wrong, all_of.cumsum(-1) - all_of
    share = np.nan_to_num(ratio(wrong, all_of))
    harmonic = digamma(size + all_of + 1) - digamma(size + 1)
    return ratio((wrong + (errors - size * share) * harmonic).sum(-1), all_of.sum(-1))


CALIBRATION: dict[str, Metric] = {
    "ece": ece(),
    "ece_10": ece(10),
    "ece_by_mass": ece_by_mass(),
    "brier": brier,
    "aurc": aurc,
    "confidence": mean_of("confidence"),
    "accuracy": mean_of("right"),
}
_ECE = ("ece", "ece_10", "ece_by_mass")


def calibration_of(
    rows: Numbers, *, resamples: int = RESAMPLES, seed: int = 0, draws: int = 200
) -> dict[str, Any]:
    """Returns `metrics` with intervals, `ece_by_chance`, `bins` and the `coverage` curve.

    The percentile interval of an ECE lies too high, since a resample's ECE lies above the data's as
    the data's lies above the truth. So those of ECE are turned about the score (the basic
    bootstrap), and begin at 0 where chance alone reaches the score in one case of 40. In
    simulations of 300 to 1,000 answers they hold the truth in 86 to 95 % of cases.
    """
    metrics = intervals(rows, CALIBRATION, resamples=resamples, seed=seed)
    chance = {name: by_chance(rows, CALIBRATION[name], draws=draws, seed=seed) for name in _ECE}
    turned = {name: _turned(metrics[name], chance[name]) for name in _ECE}
    return {
        "metrics": metrics | turned,
        "ece_by_chance": float(chance[HEADLINE].mean()),
        "bins": reliability(rows),
        "coverage": coverage(rows),
    }


def by_chance(rows: Numbers, metric: Metric, *, draws: int = 200, seed: int = 0) -> Array:
    """Returns scores `[draws]` of answers that are right as often as their confidences say, each
    by itself: what a perfectly calibrated explainer could have come out at."""
    confidence = rows.values["confidence"]
    luck = np.random.default_rng(seed).random((draws, len(rows)))
    drawn = (Numbers({"confidence": confidence, "right": (u < confidence) * 1.0}) for u in luck)
    return np.array([metric(one, None) for one in drawn])


def reliability(rows: Numbers, bins: int = BINS) -> list[dict[str, float]]:
    """Returns of each bin of equal width its bounds, `count`, mean `confidence` and `accuracy`.

    Empty bins are left out.
    """
    place = _widths(rows.values["confidence"], bins)
    held = [(each, place == each) for each in range(bins) if (place == each).any()]
    return [
        {
            "low": each / bins,
            "high": (each + 1) / bins,
            "count": int(inside.sum()),
            "confidence": float(rows.values["confidence"][inside].mean()),
            "accuracy": float(rows.values["right"][inside].mean()),
        }
        for each, inside in held
    ]


def coverage(rows: Numbers) -> list[dict[str, float]]:
    """Returns how large a `coverage` each `threshold` of confidence leaves, and at what `risk`.

    From the highest threshold to the lowest; of many, `CURVE` at even steps of coverage.
    """
    wrong, all_of = (each.cumsum() for each in _ties(rows, np.ones(len(rows))))
    levels = np.unique(rows.values["confidence"])[::-1]
    steps = np.unique(np.searchsorted(all_of, np.linspace(0, len(rows), CURVE + 1)[1:] - 1e-9))
    return [
        {
            "coverage": float(all_of[step] / len(rows)),
            "risk": float(wrong[step] / all_of[step]),
            "threshold": float(levels[step]),
        }
        for step in steps
    ]


def _ties(rows: Numbers, weights: Array) -> tuple[Array, Array]:
    """Returns the weight of the wrong answers and of all at each confidence, from the highest."""
    _, level = np.unique(-rows.values["confidence"], return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(level.max(initial=-1) + 1))
    wrong = weights * (1 - rows.values["right"])
    first, second = (np.add.reduceat(each[..., order], starts, -1) for each in (wrong, weights))
    return first, second


def _gap(rows: Numbers) -> Array:
    return rows.values["confidence"] - rows.values["right"]


def _widths(confidence: Array, bins: int) -> NDArray[np.intp]:
    """Returns each confidence's bin."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)


def _turned(found: Interval, chance: Array) -> Interval:
    """Returns the interval turned about its score, from 0 where chance alone may be all."""
    value = found["value"]
    low, high = (max(2 * value - found[end], 0.0) for end in ("high", "low"))
    by_luck = value <= np.quantile(chance, 0.975)
    return Interval(value=value, low=0.0 if by_luck else min(low, value), high=max(high, value))
