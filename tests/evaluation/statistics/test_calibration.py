"""Calibration scores against scikit-learn, published worked examples and plain loops."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from selfx.errors import SelfxError
from selfx.evaluation.statistics.calibration import (
    CALIBRATION,
    aurc,
    brier,
    calibrated,
    calibration_of,
    coverage,
    ece,
    ece_by_mass,
    reliability,
)


def drawn(seed, n=240, *, ties=False):
    rng = np.random.default_rng(seed)
    confidence = rng.random(n)
    if ties:
        confidence = np.round(confidence, 1)
    return calibrated(confidence, rng.random(n) < confidence**2)


def test_ece_of_a_published_worked_example():
    """The example in torchmetrics' documentation of its binary calibration error: 0.29."""
    rows = calibrated(np.array([0.25, 0.25, 0.55, 0.75, 0.75]), np.array([0, 0, 1, 1, 1]))
    assert ece(2)(rows) == pytest.approx(0.29)


def test_ece_by_hand():
    """Bins hold their upper bound, not their lower, as in Guo et al.'s released code."""
    rows = calibrated(np.array([0.1, 0.5, 0.6, 1.0]), np.array([0, 1, 0, 1]))
    assert ece(2)(rows) == pytest.approx((abs(0.6 - 1) + abs(1.6 - 1)) / 4)
    assert ece(10)(rows) == pytest.approx((0.1 + 0.5 + 0.6 + 0) / 4)


@pytest.mark.parametrize(("bins", "ties"), [(10, False), (15, True), (15, False)])
def test_ece_agrees_with_the_curve_of_scikit_learn(bins, ties):
    rows = drawn(bins, ties=ties)
    confidence, right = rows.values["confidence"], rows.values["right"]
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins)
    sizes = np.histogram(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence), bins)[0]
    sizes = np.array([size for size in sizes if size])
    assert ece(bins)(rows) == pytest.approx(sizes @ abs(accuracy - mean) / len(rows))
    if bins == 15:
        told = reliability(rows)
        assert [each["accuracy"] for each in told] == pytest.approx(accuracy)
        assert [each["confidence"] for each in told] == pytest.approx(mean)
        assert [each["count"] for each in told] == sizes.tolist()


def test_ece_by_mass_agrees_with_the_quantile_curve_of_scikit_learn():
    rows = drawn(3)
    curve = calibration_curve(
        *(rows.values[n] for n in ("right", "confidence")), n_bins=15, strategy="quantile"
    )
    assert ece_by_mass()(rows) == pytest.approx(np.abs(curve[0] - curve[1]).mean())


def test_the_brier_score_is_that_of_scikit_learn():
    rows = drawn(0)
    assert brier(rows) == pytest.approx(
        brier_score_loss(rows.values["right"], rows.values["confidence"])
    )


def test_aurc_is_the_mean_risk_over_all_coverages():
    rows = drawn(1)
    wrong = 1 - rows.values["right"][np.argsort(-rows.values["confidence"])]
    risks = wrong.cumsum() / np.arange(1, len(rows) + 1)
    assert aurc(rows) == pytest.approx(risks.mean())
    points = coverage(calibrated(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 0, 1, 0])))
    assert points == [
        {"coverage": 0.25, "risk": 0.0, "threshold": 0.9},
        {"coverage": 0.75, "risk": 1 / 3, "threshold": 0.8},
        {"coverage": 1.0, "risk": 0.5, "threshold": 0.1},
    ]
    assert len(coverage(drawn(2, 2000))) == 100


def test_ties_count_as_taken_in_random_order():
    """The mean over all orders of five answers of which four are equally sure."""
    right = np.array([0, 1, 0, 1, 1])
    rows = calibrated(np.array([0.9, 0.5, 0.5, 0.5, 0.5]), right)
    orders = [[0, *rest] for rest in itertools.permutations(range(1, 5))]
    risks = [((1 - right[order]).cumsum() / np.arange(1, 6)).mean() for order in orders]
    assert aurc(rows) == pytest.approx(np.mean(risks))


@pytest.mark.parametrize("name", CALIBRATION)
def test_weights_count_rows(name):
    rows = drawn(5, 60, ties=name != "ece_by_mass")
    weights = np.random.default_rng(1).integers(0, 4, size=(5, 60)).astype(float)
    if name == "ece_by_mass":
        weights[:] = weights[:, :1] + 1  # a row may not straddle bins, as several equal ones can
    found = CALIBRATION[name](rows, weights)
    for value, counts in zip(found, weights, strict=True):
        repeated = np.repeat(np.arange(60), counts.astype(int))
        columns = (rows.values[column][repeated] for column in ("confidence", "right"))
        assert value == pytest.approx(CALIBRATION[name](calibrated(*columns)))


def test_a_report_of_perfect_confidence_holds_zero_and_one_of_overconfidence_does_not():
    """Percentile intervals of an ECE would never hold 0; these do in about 95 cases of 100."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(30):
        confidence = rng.beta(2, 2, 200)
        rows = calibrated(confidence, rng.random(200) < confidence)
        found = calibration_of(rows, resamples=100, seed=trial, draws=50)
        held += found["metrics"]["ece"]["low"] == 0
        assert found["metrics"]["ece"]["value"] > 0.03  # of chance alone
    assert held >= 26
    confidence = rng.beta(5, 2, 400)
    found = calibration_of(calibrated(confidence, rng.random(400) < 0.3), resamples=200)
    interval = found["metrics"]["ece"]
    assert 0.3 < interval["low"] <= interval["value"] <= interval["high"] < 0.55
    assert found["ece_by_chance"] < 0.1
    assert set(found["metrics"]) == set(CALIBRATION)
    assert sum(each["count"] for each in found["bins"]) == 400


def test_clusters_make_intervals_wider():
    rows = drawn(8, 50)
    group = np.repeat(np.arange(50), 8)
    columns = [np.repeat(rows.values[name], 8) for name in ("confidence", "right")]
    whole, alone = (
        calibration_of(calibrated(*columns, g), resamples=300, draws=5)["metrics"]["brier"]
        for g in (group, None)
    )
    assert whole["high"] - whole["low"] > 2 * (alone["high"] - alone["low"])


def test_no_answers_have_no_calibration_and_no_warning():
    empty = calibrated(np.array([]), np.array([]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(np.isnan(CALIBRATION[name](empty)) for name in ("ece", "brier", "ece_by_mass"))


def test_a_confidence_is_a_probability():
    with pytest.raises(SelfxError, match="outside 0 to 1"):
        calibrated(np.array([0.5, 1.5]), np.array([1, 0]))
