"""Agreement against scikit-learn and SciPy, and its resamples against resampling for real."""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import cohen_kappa_score

from selfx.evaluation.judge.agreement import AGREEMENTS, agreement
from selfx.evaluation.statistics.rows import Numbers

ORACLES = {
    "spearman": lambda a, b: spearmanr(a, b).statistic,
    "kendall": lambda a, b: kendalltau(a, b).statistic,
    "kappa": lambda a, b: cohen_kappa_score(
        a.round().astype(int), b.round().astype(int), weights="quadratic"
    ),
}


def ratings(n, seed, whole=True):
    rng = np.random.default_rng(seed)
    a = rng.uniform(1, 5, n)
    b = np.clip(a + rng.normal(0, 1, n), 1, 5)
    return (a.round(), b.round()) if whole else (a.round(), b)


@pytest.mark.parametrize("name", AGREEMENTS)
@pytest.mark.parametrize("whole", [True, False])
def test_each_measure_is_what_the_libraries_say(name, whole):
    a, b = ratings(80, seed=1, whole=whole)
    assert AGREEMENTS[name](Numbers({"a": a, "b": b})) == pytest.approx(ORACLES[name](a, b))


@pytest.mark.parametrize("name", AGREEMENTS)
def test_a_weight_counts_as_so_many_rows(name):
    a, b = ratings(30, seed=2, whole=False)
    weights = np.random.default_rng(3).integers(0, 4, (2, 30))
    found = AGREEMENTS[name](Numbers({"a": a, "b": b}), weights)
    for value, w in zip(found, weights, strict=True):
        assert value == pytest.approx(ORACLES[name](a.repeat(w), b.repeat(w)))


def test_intervals_are_those_of_resampled_clusters():
    """Each cluster says one thing eight times over, so rows taken as independent would give less
    than half the width."""
    a, b = (x.repeat(8) for x in ratings(40, seed=4))
    group = np.arange(40).repeat(8)
    found = agreement(a, b, group)
    rng, drawn = np.random.default_rng(5), []
    for _ in range(500):
        rows = (8 * rng.integers(40, size=40)[:, None] + np.arange(8)).ravel()
        drawn.append(ORACLES["spearman"](a[rows], b[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found["spearman"]["low"] == pytest.approx(low, abs=0.04)
    assert found["spearman"]["high"] == pytest.approx(high, abs=0.04)


def test_one_judge_agrees_with_itself_and_one_that_says_the_same_of_all_with_nobody():
    a, _ = ratings(40, seed=6)
    for measure in agreement(a, a, np.arange(40)).values():
        assert measure == pytest.approx({"value": 1, "low": 1, "high": 1})
    constant = agreement(a, np.full(40, 3.0), np.arange(40))
    assert np.isnan(constant["spearman"]["value"])
    assert np.isnan(constant["kendall"]["value"])
    assert constant["kappa"]["value"] == pytest.approx(0)
    assert np.isnan(agreement(a * 0 + 2, a * 0 + 2, np.arange(40))["kappa"]["value"])
