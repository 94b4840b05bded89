"""Making confidences better with what is known of other answers: a temperature, and Platt's line.

Neither changes an answer. Both are fitted by the likelihood of which answers were right, on such as
are not scored; in folds, on those of all other clusters.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, xlogy

from selfx.errors import SelfxError
from selfx.evaluation.statistics.rows import Array

TEMPERATURES = tuple(2.0 ** (step / 4) for step in range(-4, 13))
"""From 1/2 to 8, 1 among them."""
FOLDS = 5
_NEARLY = 1e-9  # no closer to 0 or 1 does a confidence count, or one wrong answer decides all


def fit_temperature(
    log_probabilities: Array, right: Array, temperatures: tuple[float, ...] = TEMPERATURES
) -> int:
    """Returns the place of the temperature whose confidences make the outcomes likeliest.

    The logits of every token are divided by it before the answer's probability is taken (Guo et
    al., ICML 2017), so confidences fall as it rises, and the greedy answer stays what it is.

    Args:
        log_probabilities: `[n, c]` of each answer at each of `c` temperatures.
        right: `[n]` 1 where the answer was right, else 0.
        temperatures: by which the columns go.
    """
    if log_probabilities.shape != (len(right), len(temperatures)) or not len(right):
        raise SelfxError(
            f"log-probabilities of shape {log_probabilities.shape}",
            expected=f"{len(right)} answers at {len(temperatures)} temperatures, one at least",
        )
    confidence = np.clip(np.exp(log_probabilities), _NEARLY, 1 - _NEARLY)
    outcome = np.asarray(right, np.float64)[:, None]
    likely = xlogy(outcome, confidence) + xlogy(1 - outcome, 1 - confidence)
    return int(likely.sum(axis=0).argmax())


def fit_platt(log_probability: Array, right: Array) -> tuple[float, float]:
    """Returns slope and intercept of the line in log-odds that makes the outcomes likeliest.

    The outcomes are drawn in a little, by how many there are of either (Platt, 1999), so that the
    line is not vertical where all confident answers are right.

    Args:
        log_probability: `[n]` of each answer.
        right: `[n]` 1 where it was right, else 0.
    """
    odds, hits = _odds(log_probability), float(np.sum(right))
    misses = len(right) - hits
    outcome = np.where(np.asarray(right) > 0, (hits + 1) / (hits + 2), 1 / (misses + 2))

    def loss(line: Array) -> tuple[float, Array]:
        height = line[0] * odds + line[1]
        off = expit(height) - outcome
        return float(np.sum(np.logaddexp(0, height) - outcome * height)), np.array(
            [off @ odds, off.sum()]
        )

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(slope), float(intercept)


def platt(log_probability: Array, line: tuple[float, float]) -> Array:
    """Returns the confidences `[n]` on a line in log-odds."""
    return expit(line[0] * _odds(log_probability) + line[1])


def platt_in_folds(
    log_probability: Array, right: Array, group: Array | None = None, *, seed: int = 0
) -> Array:
    """Returns the confidences `[n]`, each on the line that was fitted without its fold.

    Args:
        log_probability: `[n]` of each answer.
        right: `[n]` 1 where it was right, else 0.
        group: `[n]` the cluster of each, which lies in one of the `FOLDS`; none is a cluster each.
        seed: of the folds.
    """
    names, cluster = np.unique(
        np.arange(len(right)) if group is None else group, return_inverse=True
    )
    fold = np.random.default_rng((seed, 7)).permutation(len(names))[cluster] % FOLDS
    made = np.empty(len(right))
    for one in range(FOLDS):
        here = fold == one
        if here.any():
            line = fit_platt(log_probability[~here], right[~here])
            made[here] = platt(log_probability[here], line)
    return made


def _odds(log_probability: Array) -> Array:
    """Returns the log-odds of probabilities, nearly 0 and nearly 1 as the ends."""
    log_probability = np.clip(log_probability, np.log(_NEARLY), np.log1p(-_NEARLY))
    return log_probability - np.log(-np.expm1(log_probability))
