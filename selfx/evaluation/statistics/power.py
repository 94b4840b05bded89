"""How small a difference could have been seen: what a result of "no difference" is worth."""

from __future__ import annotations

from collections.abc import Mapping

from scipy import stats

from selfx.errors import SelfxError
from selfx.evaluation.statistics.intervals import LEVEL, RESAMPLES, paired_errors
from selfx.evaluation.statistics.rows import Metric, Rows

POWER = 0.8
_NOISE = 1e-12  # what rounding leaves of no error at all


def smallest_differences(
    a: Rows,
    b: Rows,
    metrics: Mapping[str, Metric],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float | None]:
    """Returns for each metric the smallest true difference that two explainers on these examples
    would have shown in four of five such runs, at 5 % two-sided.

    It follows from the bootstrap's standard error of the paired difference, clusters whole. None
    where the two do not differ on any example: then nothing says how much they would vary.
    """
    errors, groups = paired_errors(a, b, metrics, resamples=resamples, seed=seed)
    return {name: smallest_difference(error, groups) for name, error in errors.items()}


def smallest_difference(
    error: float, groups: int, *, power: float = POWER, level: float = LEVEL
) -> float | None:
    """Returns the smallest difference that is seen with that power; None for an error of 0.

    It is (t of the level + t of the power) standard errors (Bloom, Evaluation Review 19, 1995).

    Args:
        error: the standard error of a difference.
        groups: the clusters that it rests on.
        power: how often it is to be seen.
        level: of the interval that is not to hold 0.
    """
    if not (0 < power < 1 and 0 < level < 1):
        raise SelfxError(f"power {power} and level {level}", expected="shares between 0 and 1")
    freedom = max(groups - 1, 1)
    reach = stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(power, freedom)
    return float(reach * error) if error > _NOISE else None
