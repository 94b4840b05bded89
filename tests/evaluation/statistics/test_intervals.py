import time

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import METRICS, Outcomes, exact_match, has_changed_f1
from selfx.evaluation.statistics.intervals import (
    interval,
    intervals,
    paired_difference,
    paired_differences,
    resample,
    summary,
)
from selfx.evaluation.statistics.rows import Numbers, mean_of


def outcomes(hits, group=None):
    """Answers whose verdict and content are both right, or both wrong."""
    hits = np.asarray(hits, bool)
    gold = np.arange(len(hits)) % 2 == 0
    pred = np.where(hits, gold, ~gold).astype(np.int8)
    return Outcomes(gold, pred, hits, hits, np.ones(len(hits), bool), group)


def clustered(rng, groups=80, size=5, rates=(0.1, 0.9)):
    """Hits whose rate is drawn anew for each group; the true share is the mean of the rates."""
    rates = rng.choice(rates, groups)
    return outcomes(
        rng.random((groups, size)).ravel() < np.repeat(rates, size),
        np.repeat(np.arange(groups), size),
    )


def test_agrees_with_the_binomial_where_rows_are_independent():
    hits = np.arange(400) < 120
    got = interval(exact_match, outcomes(hits), resamples=8000)
    margin = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert got["value"] == pytest.approx(0.3)
    assert got["low"] == pytest.approx(0.3 - margin, abs=0.004)
    assert got["high"] == pytest.approx(0.3 + margin, abs=0.004)


def test_groups_are_resampled_whole():
    """With identical rows in each group, only the number of groups counts."""
    hits = np.arange(50) < 20
    few = interval(exact_match, outcomes(hits), resamples=3000, seed=3)
    many = interval(
        exact_match,
        outcomes(np.repeat(hits, 10), np.repeat(np.arange(50), 10)),
        resamples=3000,
        seed=3,
    )
    assert many == pytest.approx(few)
    alone = interval(exact_match, outcomes(np.repeat(hits, 10)), resamples=3000)
    assert alone["high"] - alone["low"] < 0.5 * (many["high"] - many["low"])


def test_every_metric_equals_a_bootstrap_by_hand():
    rng = np.random.default_rng(0)
    n, groups = 300, 60
    group = rng.integers(groups, size=n)
    gold, pred, equal = (
        rng.random(n) < 0.5,
        rng.integers(-1, 2, n).astype(np.int8),
        rng.random(n) < 0.5,
    )
    data = Outcomes(gold, pred, equal, equal & (pred == gold), pred >= 0, group)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    draws = [
        np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        for _ in range(3000)
    ]
    got = intervals(data, resamples=6000)
    for name, metric in METRICS.items():
        weights = np.stack([np.bincount(rows, minlength=n) for rows in draws]).astype(float)
        low, high = np.quantile(metric(data, weights), [0.025, 0.975])
        assert got[name]["value"] == pytest.approx(metric(data))
        assert got[name]["low"] == pytest.approx(low, abs=0.01)
        assert got[name]["high"] == pytest.approx(high, abs=0.01)


def held(data, truth, seed):
    """Whether the interval holds the truth, and whether a plain percentile interval does."""
    drawn = resample([data], 400, seed)
    scores = exact_match(drawn.rows[0], drawn.weights)
    plain = np.quantile(scores[1:], [0.025, 0.975])
    got = summary(scores, drawn.groups)
    return got["low"] <= truth <= got["high"], plain[0] <= truth <= plain[1]


@pytest.mark.parametrize("groups", [20, 40, 80])
def test_holds_the_truth_in_93_to_97_cases_of_100(groups):
    """Clusters whose rates differ, of five answers each; rare successes too."""
    rng = np.random.default_rng(groups)
    rates, trials = (0.05, 0.2, 0.8), 1200
    covers = [
        held(clustered(rng, groups, rates=rates), np.mean(rates), trial)[0]
        for trial in range(trials)
    ]
    assert 0.93 <= np.mean(covers) <= 0.97


def test_with_few_clusters_it_still_nearly_does_where_percentiles_do_not():
    rng = np.random.default_rng(0)
    ours, plain = np.mean([held(clustered(rng, 8), 0.5, t) for t in range(800)], axis=0)
    assert 0.92 <= ours <= 0.98
    assert plain < 0.92


def test_without_clusters_it_would_be_far_too_sure():
    rng = np.random.default_rng(0)
    data = [clustered(rng) for _ in range(250)]
    naive = [held(outcomes(each.exact), 0.5, trial)[0] for trial, each in enumerate(data)]
    assert np.mean(naive) < 0.85


def test_the_same_seed_gives_the_same_interval():
    data = clustered(np.random.default_rng(0))
    assert interval(exact_match, data, seed=1) == interval(exact_match, data, seed=1)
    assert interval(exact_match, data, seed=1) != interval(exact_match, data, seed=2)


def test_a_wider_level_gives_a_wider_interval():
    data = clustered(np.random.default_rng(0))
    half, most = interval(exact_match, data, level=0.5), interval(exact_match, data, level=0.99)
    assert most["low"] < half["low"] < half["high"] < most["high"]


def test_a_single_group_falls_back_to_its_rows():
    hits = np.arange(100) < 50
    assert interval(exact_match, outcomes(hits, np.zeros(100))) == interval(
        exact_match, outcomes(hits)
    )


def test_a_paired_difference_is_narrower_than_two_scores_apart():
    """Two explainers that share every question's difficulty differ on 5 % of the rows only."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), 6)
    without = rng.random(600) < 0.5
    own = without | (np.arange(600) % 20 == 0)
    a, b = outcomes(own, group), outcomes(without, group)
    got = paired_difference(exact_match, a, b)
    assert got["value"] == pytest.approx(own.mean() - without.mean())
    assert 0 < got["low"] < got["value"] < got["high"]
    single = interval(exact_match, a)
    assert got["high"] - got["low"] < 0.5 * (single["high"] - single["low"])
    swapped = paired_difference(exact_match, b, a)
    assert swapped["value"] == pytest.approx(-got["value"])
    assert swapped["low"] == pytest.approx(-got["high"])


def test_an_explainer_does_not_differ_from_itself():
    data = clustered(np.random.default_rng(0))
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert paired_differences(data, data) == dict.fromkeys(METRICS, nothing)


def test_a_paired_difference_needs_the_same_examples():
    a = outcomes([1, 1, 0, 0])
    with pytest.raises(SelfxError, match="different examples"):
        paired_difference(has_changed_f1, a, outcomes([1, 1, 0]))
    with pytest.raises(SelfxError, match="different examples"):
        paired_difference(has_changed_f1, a, outcomes([1, 1, 0, 0], np.arange(4)))


def test_bad_settings_raise():
    for bad in ({"resamples": 0}, {"level": 1.0}):
        with pytest.raises(SelfxError):
            interval(exact_match, outcomes([1, 0]), **bad)
    with pytest.raises(SelfxError, match="no examples"):
        intervals(outcomes([]))


def test_means_of_numbers_equal_a_bootstrap_by_hand():
    """Merged where most rows are equal, and as they stand where they are not."""
    rng = np.random.default_rng(0)
    group = rng.integers(40, size=240)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    draws = [
        np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        for _ in range(3000)
    ]
    for column in (rng.normal(size=240) + group / 20, rng.integers(0, 3, 240) / 2):
        got = interval(mean_of("score"), Numbers({"score": column}, group), resamples=6000)
        low, high = np.quantile([column[rows].mean() for rows in draws], [0.025, 0.975])
        assert got["value"] == pytest.approx(column.mean())
        assert got["low"] == pytest.approx(low, abs=0.02)
        assert got["high"] == pytest.approx(high, abs=0.02)


def test_intervals_of_numbers_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = naive = 0
    for trial in range(250):
        levels = np.repeat(rng.normal(size=80), 5) + 0.3 * rng.normal(size=400)
        group = np.repeat(np.arange(80), 5)
        for rows in (Numbers({"score": levels}, group), Numbers({"score": levels})):
            got = interval(mean_of("score"), rows, resamples=300, seed=trial)
            covers = got["low"] <= 0 <= got["high"]
            inside += covers and rows.group is not None
            naive += covers and rows.group is None
    assert 0.91 <= inside / 250 <= 0.98
    assert naive / 250 < 0.85


def test_a_paired_difference_of_numbers_cancels_what_is_common():
    rng = np.random.default_rng(0)
    hard, group = rng.normal(size=300), np.repeat(np.arange(100), 3)
    a, b = (Numbers({"score": hard + shift}, group) for shift in (0.1, 0.0))
    got = paired_difference(mean_of("score"), a, b)
    assert got == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    for other in (
        Numbers({"score": hard[:299]}, group[:299]),
        Numbers({"score": hard}, group[::-1]),
    ):
        with pytest.raises(SelfxError, match="different examples"):
            paired_difference(mean_of("score"), a, other)
    with pytest.raises(SelfxError, match="different examples"):
        paired_difference(mean_of("score"), Numbers({"score": hard}), Numbers({"score": hard[1:]}))


def test_numbers_are_finite_and_of_one_length():
    with pytest.raises(SelfxError, match="a score that is no number"):
        Numbers({"score": np.array([1.0, np.nan])})
    with pytest.raises(SelfxError, match="lengths"):
        Numbers({"score": np.ones(3)}, np.arange(2))


def test_is_quick_at_full_size():
    rng = np.random.default_rng(0)
    data = outcomes(rng.random(6000) < 0.5, rng.integers(1500, size=6000))
    started = time.perf_counter()
    intervals(data, resamples=1000)
    assert time.perf_counter() - started < 1


def test_numbers_are_quick_at_full_size():
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=1600) for name in "abcdefgh"}
    rows = Numbers(columns, rng.integers(1400, size=1600))
    started = time.perf_counter()
    intervals(rows, {name: mean_of(name) for name in columns}, resamples=1000)
    assert time.perf_counter() - started < 1
