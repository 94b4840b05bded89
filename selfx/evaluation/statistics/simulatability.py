"""Do explanations let somebody else predict the model, and more than by giving its output away?

A simulator predicts a model's output from the input, from the explanation, and from both. The rows
are `Numbers` of `without` (right from the input alone), `with` (right from both) and `leaks` (right
from the explanation alone), each 1 or 0; what is right is the model's own output.

LAS (Hase et al., Findings of EMNLP 2020, arXiv 2010.04119) is the gain, with - without, averaged
over explanations that leak the output and over those that do not, and then over these two, so that
explanations are not rewarded for leaking. The normalised gain (Mayne et al., arXiv 2602.02639) is
(with - without) / (1 - without): how much of what was missing the explanations supplied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfx.evaluation.statistics.intervals import RESAMPLES, intervals
from selfx.evaluation.statistics.rows import Array, Metric, Numbers, as_weights, mean_of, ratio


def simulated(
    without: NDArray[Any],
    with_explanation: NDArray[Any],
    leaks: NDArray[Any],
    group: NDArray[Any] | None = None,
) -> Numbers:
    """Returns the rows of a simulator's predictions.

    Args:
        without: `[n]`, whether it was right from the input.
        with_explanation: `[n]`, from input and explanation.
        leaks: `[n]`, from the explanation.
        group: `[n]`, the cluster of each example.
    """
    named = {"without": without, "with": with_explanation, "leaks": leaks}
    return Numbers({name: np.asarray(c, np.float64) for name, c in named.items()}, group)


def gain_where(leaking: bool) -> Metric:
    """Returns the metric that is the mean gain over explanations that leak, or do not; NaN where
    there are none."""

    def gain(rows: Numbers, weights: Array | None = None) -> Array:
        inside = as_weights(len(rows), weights) * (rows.values["leaks"] == leaking)
        return ratio(inside @ (rows.values["with"] - rows.values["without"]), inside.sum(-1))

    return gain


def las(rows: Numbers, weights: Array | None = None) -> Array:
    """Returns the leakage-adjusted simulatability, from -1 to 1; NaN where all explanations leak,
    or none does: then there is only the gain of one group, which is another thing."""
    return (gain_where(False)(rows, weights) + gain_where(True)(rows, weights)) / 2


def normalised_gain(rows: Numbers, weights: Array | None = None) -> Array:
    """Returns (with - without) / (1 - without) of the two accuracies; NaN where nothing is missing
    without explanations. Below 0 where they mislead."""
    after, before = (mean_of(name)(rows, weights) for name in ("with", "without"))
    return ratio(after - before, 1 - before)


SIMULATABILITY: dict[str, Metric] = {
    "las": las,
    "gain_leaking": gain_where(True),
    "gain_not_leaking": gain_where(False),
    "normalised_gain": normalised_gain,
    "without": mean_of("without"),
    "with": mean_of("with"),
}


def simulatability_of(
    rows: Numbers, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Returns `metrics` with intervals, None for those of an empty group; `n` and how many `leak`.

    Resamples in which a group is empty are left out of its intervals.
    """
    found = intervals(rows, SIMULATABILITY, resamples=resamples, seed=seed)
    return {
        "metrics": {
            name: each if math.isfinite(each["value"]) else None for name, each in found.items()
        },
        "n": len(rows),
        "leak": int(rows.values["leaks"].sum()),
    }
