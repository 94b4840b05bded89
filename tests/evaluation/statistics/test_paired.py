"""Paired tests against scipy's, plain enumeration, and their own false alarms."""

import itertools

import numpy as np
import pytest
from scipy import stats

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import Outcomes, exact_match, has_changed_f1
from selfx.evaluation.statistics.paired import mcnemar, swap_test
from selfx.evaluation.statistics.rows import Numbers, mean_of

MEAN = mean_of("score")


def numbers(values, group=None):
    return Numbers({"score": np.asarray(values, float)}, group)


def outcomes(gold, pred, equal, group):
    gold, pred = np.array(gold, bool), np.array(pred, np.int8)
    equal = np.array(equal, bool) & (pred >= 0)
    return Outcomes(gold, pred, equal, equal & (pred == gold), pred >= 0, group)


@pytest.mark.parametrize("clustered", [False, True])
def test_few_clusters_are_enumerated_as_scipy_does(clustered):
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
        if clustered:
            group = np.repeat(np.arange(10), 3)
            one, other = rng.normal(0.4, 1, 30), rng.normal(0, 1, 30)
            a, b = (x.reshape(10, 3).sum(1) for x in (one, other))
        else:
            one, other, group = a, b, None
        theirs = stats.permutation_test(
            (a, b),
            lambda x, y, axis: np.sum(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        found = swap_test(MEAN, numbers(one, group), numbers(other, group))
        assert found.exact
        assert found.clusters == 10
        assert found.p == pytest.approx(theirs.pvalue)
        assert found.difference == pytest.approx(theirs.statistic / len(one))


def test_many_clusters_are_drawn_at_random_as_scipy_does():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.25, 1, 80), rng.normal(0, 1, 80)
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(3),
    )
    found = swap_test(MEAN, numbers(a), numbers(b))
    assert not found.exact
    assert found.p == pytest.approx(theirs.pvalue, abs=0.015)
    assert swap_test(MEAN, numbers(a), numbers(b)) == found
    assert swap_test(MEAN, numbers(a), numbers(b), seed=1) != found


def test_any_metric_is_scored_anew_on_every_swap():
    """F1 over swaps of whole clusters, each swap made by hand."""
    rng = np.random.default_rng(2)
    group, gold = np.repeat(np.arange(6), 4), rng.random(24) < 0.5
    made = [
        outcomes(gold, np.where(rng.random(24) < p, gold, ~gold), rng.random(24) < 0.5, group)
        for p in (0.9, 0.6)
    ]
    found = swap_test(has_changed_f1, *made)
    differences = []
    for swaps in itertools.product([False, True], repeat=6):
        swapped = np.repeat(swaps, 4)
        pred = [np.where(swapped, y.pred_changed, x.pred_changed) for x, y in (made, made[::-1])]
        one, other = (has_changed_f1(outcomes(gold, p, gold, group)) for p in pred)
        differences.append(one - other)
    assert found.p == pytest.approx(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12))
    assert found.difference == pytest.approx(differences[0])


def test_clusters_that_do_not_differ_teach_nothing():
    rng = np.random.default_rng(3)
    same, group = rng.integers(0, 2, 200), np.arange(200) // 2
    other = same.copy()
    other[:10:2] = 1 - other[:10:2]
    found = swap_test(MEAN, numbers(same, group), numbers(other, group))
    assert found.clusters == 5
    assert found.exact
    nothing = swap_test(MEAN, numbers(same, group), numbers(same, group))
    assert (nothing.p, nothing.clusters, nothing.difference) == (1.0, 0, 0.0)


def test_false_alarms_are_as_rare_as_they_should_be_where_rows_come_in_clusters():
    rng = np.random.default_rng(4)
    alarms = naive = 0
    for trial in range(200):
        shift = np.repeat(rng.normal(size=12), 5)
        values, group = shift + 0.3 * rng.normal(size=60), np.repeat(np.arange(12), 5)
        for its in (group, None):
            found = swap_test(
                MEAN, numbers(values, its), numbers(0 * values, its), draws=499, seed=trial
            )
            alarms += its is not None and found.p <= 0.05
            naive += its is None and found.p <= 0.05
    assert alarms / 200 < 0.09
    assert naive / 200 > 0.2  # what clusters are for


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (8, 2), (5, 5), (30, 12), (0, 9)])
def test_mcnemar_is_the_binomial_test(b, c):
    a_right = np.array([1] * b + [0] * c + [1] * 7 + [0] * 4, bool)
    b_right = np.array([0] * b + [1] * c + [1] * 7 + [0] * 4, bool)
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(a_right, b_right) == pytest.approx(expected)
    if b + c and b + c <= 10:
        exact = swap_test(MEAN, numbers(a_right), numbers(b_right))
        assert exact.p == pytest.approx(expected)


def test_mistakes_raise():
    with pytest.raises(SelfxError, match="different examples"):
        swap_test(MEAN, numbers([1, 0]), numbers([1]))
    with pytest.raises(SelfxError, match="at least one"):
        swap_test(exact_match, numbers([]), numbers([]))
    with pytest.raises(SelfxError, match="two to each"):
        mcnemar(np.ones(2, bool), np.ones(3, bool))
