"""Fits of confidence against scikit-learn's, and against answers drawn at a known temperature."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, logit
from sklearn.calibration import _SigmoidCalibration

from selfx.errors import SelfxError
from selfx.evaluation.statistics.recalibrate import (
    TEMPERATURES,
    fit_platt,
    fit_temperature,
    platt,
    platt_in_folds,
)


def test_platt_scaling_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    probability = rng.beta(3, 2, 300)
    right = (rng.random(300) < expit(0.4 * logit(probability) - 1)).astype(float)
    theirs = _SigmoidCalibration().fit(logit(probability), right)
    slope, intercept = fit_platt(np.log(probability), right)
    assert slope == pytest.approx(-theirs.a_, abs=1e-3)
    assert intercept == pytest.approx(-theirs.b_, abs=1e-3)
    made = platt(np.log(probability), (slope, intercept))
    assert made == pytest.approx(theirs.predict(logit(probability)), abs=1e-3)


def test_platt_scaling_survives_separation_and_the_ends():
    """All sure answers right, the others wrong; probabilities of 0 and 1 among them."""
    log_probability = np.array([-np.inf, -40.0, -3.0, -0.1, 0.0, 0.0])
    right = np.array([0, 0, 0, 1, 1, 1.0])
    made = platt(log_probability, fit_platt(log_probability, right))
    assert ((made > 0) & (made < 1)).all()
    assert np.all(np.diff(made) >= 0)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.0, 8.0])
def test_the_temperature_that_answers_were_drawn_at_is_found(true):
    rng = np.random.default_rng(0)
    logits = 4 * rng.standard_normal((6000, 5))
    said = logits.argmax(1)
    at = np.stack([log_softmax(logits / t, axis=1) for t in TEMPERATURES], axis=2)
    own = at[np.arange(6000), said]
    chance = np.exp(log_softmax(logits / true, axis=1)[np.arange(6000), said])
    right = (rng.random(6000) < chance).astype(float)
    found = TEMPERATURES[fit_temperature(own, right)]
    assert true / 1.2 < found < true * 1.2


def test_shapes_must_fit():
    for shape, n in (((3, 2), 3), ((0, len(TEMPERATURES)), 0)):
        with pytest.raises(SelfxError, match="log-probabilities of shape"):
            fit_temperature(np.zeros(shape), np.zeros(n))


def test_in_folds_no_answer_decides_its_own_confidence():
    """Nor does any of its cluster: with the outcomes of one turned round, its own stay."""
    rng = np.random.default_rng(0)
    log_probability, group = np.log(rng.uniform(0.05, 0.95, 200)), np.repeat(np.arange(40), 5)
    right = (rng.random(200) < 0.5 * np.exp(log_probability)).astype(float)
    made = platt_in_folds(log_probability, right, group)
    turned = np.where(group == 7, 1 - right, right)
    other = platt_in_folds(log_probability, turned, group)
    np.testing.assert_array_equal(other[group == 7], made[group == 7])
    assert (other != made).mean() > 0.7
    assert abs(made.mean() - right.mean()) < 0.05
    whole = platt(log_probability, fit_platt(log_probability, right))
    assert np.abs(made - whole).max() < 0.15


def test_a_few_answers_make_do_without_all_folds():
    made = platt_in_folds(np.log([0.2, 0.9]), np.array([0.0, 1.0]))
    assert ((made > 0) & (made < 1)).all()
