import numpy as np
import pytest

from selfx.evaluation.statistics.simulatability import (
    SIMULATABILITY,
    las,
    normalised_gain,
    simulatability_of,
    simulated,
)


def test_las_of_a_worked_example():
    """Leaking: gains 1, 0, 0, -1 and 1, mean 1/5. Not leaking: 0, 1, 1, mean 2/3."""
    without = np.array([0, 1, 0, 1, 0, 0, 0, 0])
    with_it = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    leaks = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    found = simulatability_of(simulated(without, with_it, leaks), resamples=200)
    values = {name: each["value"] for name, each in found["metrics"].items()}
    assert values["gain_leaking"] == pytest.approx(1 / 5)
    assert values["gain_not_leaking"] == pytest.approx(2 / 3)
    assert values["las"] == pytest.approx((1 / 5 + 2 / 3) / 2)
    assert values["normalised_gain"] == pytest.approx((5 / 8 - 2 / 8) / (1 - 2 / 8))
    assert (found["n"], found["leak"]) == (8, 5)


def test_las_and_gain_agree_with_the_direct_formulas():
    rng = np.random.default_rng(0)
    without, with_it, leaks = (rng.random(300) < p for p in (0.4, 0.7, 0.6))
    rows = simulated(without, with_it, leaks)
    groups = [
        np.mean(
            [int(w) - int(o) for w, o, k in zip(with_it, without, leaks, strict=True) if k == g]
        )
        for g in (0, 1)
    ]
    assert las(rows) == pytest.approx(sum(groups) / 2)
    assert normalised_gain(rows) == pytest.approx(
        (with_it.mean() - without.mean()) / (1 - without.mean())
    )
    weights = rng.integers(0, 3, size=(4, 300)).astype(float)
    for name, metric in SIMULATABILITY.items():
        for value, counts in zip(metric(rows, weights), weights, strict=True):
            some = np.repeat(np.arange(300), counts.astype(int))
            again = simulated(without[some], with_it[some], leaks[some])
            assert value == pytest.approx(metric(again)), name


def test_where_all_explanations_leak_there_is_no_las():
    """As where an answer states the outcome; the gain of those that leak is still told."""
    rng = np.random.default_rng(1)
    found = simulatability_of(
        simulated(rng.random(50) < 0.5, rng.random(50) < 0.8, np.ones(50)), resamples=100
    )
    assert found["metrics"]["las"] is None
    assert found["metrics"]["gain_not_leaking"] is None
    gain = found["metrics"]["gain_leaking"]
    assert gain["low"] < gain["value"] < gain["high"]


def test_where_nothing_is_missing_there_is_no_normalised_gain():
    ones = np.ones(10)
    found = simulatability_of(simulated(ones, ones, np.arange(10) % 2), resamples=50)
    assert found["metrics"]["normalised_gain"] is None
    assert found["metrics"]["las"]["value"] == 0


def test_a_group_that_some_resamples_lack_still_has_an_interval():
    rng = np.random.default_rng(2)
    leaks = np.arange(30) < 2
    found = simulatability_of(
        simulated(rng.random(30) < 0.3, rng.random(30) < 0.8, leaks), resamples=300
    )
    assert all(np.isfinite([*each.values()]).all() for each in found["metrics"].values())
