"""What is drawn keeps lengths as it says; depths go from end to end."""

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.projection.drawn import drawn, kaiming, random
from selfx.explainer.projection.files import same_depth
from selfx.testing import tiny_config


def units(n, d):
    x = np.random.default_rng(0).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("d_explainer", [48, 32])
def test_into_as_much_room_or_more_lengths_and_angles_are_kept(d_explainer):
    for p in np.asarray(random(3, 32, d_explainer, jax.random.key(0)), np.float64):
        np.testing.assert_allclose(p @ p.T, np.eye(32), atol=5e-6)


def test_into_less_room_lengths_are_kept_on_average():
    p = np.asarray(random(1, 96, 24, jax.random.key(0)), np.float64)[0]
    np.testing.assert_allclose(p.T @ p, 4 * np.eye(24), atol=2e-5)
    squares = ((units(20_000, 96) @ p) ** 2).sum(axis=1)
    assert abs(squares.mean() - 1) < 0.01


def test_each_layer_and_each_key_draws_its_own_and_no_sign_is_preferred():
    ours = np.asarray(random(40, 8, 12, jax.random.key(0)))
    assert len({p.tobytes() for p in ours}) == 40
    assert not np.allclose(ours, random(40, 8, 12, jax.random.key(1)))
    assert abs(ours[:, 0, 0].mean()) < 0.2  # its deviation is 1 / sqrt(12 * 40) = 0.05


def test_kaiming_is_uniform_and_shortens_as_documented():
    p = np.asarray(kaiming(2, 256, 64, jax.random.key(0)), np.float64)
    assert 0.99 / 16 < np.abs(p).max() <= 1 / 16
    assert abs(p.std() * 16 - 1 / np.sqrt(3)) < 0.01
    squares = ((units(2000, 256) @ p[0]) ** 2).sum(axis=1)
    assert abs(squares.mean() / (64 / (3 * 256)) - 1) < 0.05


@pytest.mark.reference
def test_kaiming_is_how_torch_starts_a_linear_layer():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Linear(256, 64, bias=False).weight.detach().numpy()
    ours = np.asarray(kaiming(1, 256, 64, jax.random.key(0)))
    assert abs(np.abs(theirs).max() / np.abs(ours).max() - 1) < 0.01
    assert abs(theirs.std() / ours.std() - 1) < 0.03


@pytest.mark.parametrize(
    ("counts", "layers"),
    [
        ((4, 4), [0, 1, 2, 3]),
        ((4, 7), [0, 2, 4, 6]),
        ((7, 4), [0, 0, 1, 2, 2, 2, 3]),
        ((3, 1), [0, 0, 0]),
        ((1, 5), [4]),
    ],
)
def test_depths_go_from_end_to_end(counts, layers):
    assert same_depth(*counts) == layers


def test_a_drawn_projection_fits_its_two_models(lm_of):
    target = lm_of(tiny_config(), name="one")
    explainer = lm_of(tiny_config(d_model=48, n_layers=7), name="other")
    projection = drawn("random", target, explainer, jax.random.key(0))
    projection.check()
    assert projection.matrices.shape == (4, 32, 48)
    assert projection.layers == (0, 2, 4, 6)
    assert (projection.target, projection.explainer) == (target.hash, explainer.hash)
    with pytest.raises(SelfxError, match="drawn as 'xavier'"):
        drawn("xavier", target, explainer, jax.random.key(0))
