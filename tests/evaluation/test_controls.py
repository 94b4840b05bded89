import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.controls import CONTROLS, check_control, get_control, random_orthogonal


def numbered(n, d=3):
    """Vectors that say whose they are."""
    return np.tile(np.arange(n, dtype=np.float32)[:, None], (1, d))


def donors(n, groups=None, seed=0):
    return CONTROLS["shuffled"](numbered(n), seed=seed, groups=groups)[:, 0].astype(int)


@pytest.mark.parametrize("name", CONTROLS)
def test_keeps_shape_and_dtype_and_the_input(name):
    vectors = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    before = vectors.copy()
    fed = get_control(name)(vectors, seed=1, groups=list("aabbccddee"))
    assert fed.shape == vectors.shape
    assert fed.dtype == np.float32
    np.testing.assert_array_equal(vectors, before)
    np.testing.assert_array_equal(
        fed, get_control(name)(vectors, seed=1, groups=list("aabbccddee"))
    )


def test_none_and_zero():
    vectors = numbered(4)
    np.testing.assert_array_equal(CONTROLS["none"](vectors), vectors)
    np.testing.assert_array_equal(CONTROLS["zero"](vectors), np.zeros((4, 3)))


@pytest.mark.parametrize("n", [2, 3, 5, 100])
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_moves_everybody(n, seed):
    taken = donors(n, seed=seed)
    assert sorted(taken) == list(range(n))
    assert (taken != np.arange(n)).all()


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_takes_from_other_groups(seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(list("abcdef"), [10, 1, 2, 3, 3, 1]))  # a holds exactly half
    taken = donors(20, groups.tolist(), seed=seed)
    assert sorted(taken) == list(range(20))
    assert (groups[taken] != groups).all()


@pytest.mark.parametrize("seed", range(10))
def test_shuffled_keeps_as_few_as_possible_in_a_group_too_large(seed):
    groups = np.random.default_rng(seed).permutation(list("aaaaaaabbc"))
    taken = donors(10, groups.tolist(), seed=seed)
    assert (taken != np.arange(10)).all()
    assert (groups[taken] == groups).sum() == 7 - 3  # only three others can give to the seven


def test_shuffled_within_one_group_still_moves_everybody():
    assert (donors(5, ["a"] * 5) != np.arange(5)).all()


def test_shuffled_depends_on_the_seed():
    assert (donors(50, seed=0) != donors(50, seed=1)).any()


def test_shuffled_needs_two():
    with pytest.raises(SelfxError, match="one vector"):
        CONTROLS["shuffled"](numbered(1))
    assert CONTROLS["shuffled"](numbered(0), groups=[]).shape == (0, 3)


def test_rotated_keeps_norms_and_angles_and_loses_direction():
    vectors = np.random.default_rng(0).normal(size=(20, 64))
    fed = CONTROLS["rotated"](vectors, seed=0)
    np.testing.assert_allclose(fed @ fed.T, vectors @ vectors.T, atol=1e-10)
    cosine = (fed * vectors).sum(1) / (vectors**2).sum(1)
    assert abs(cosine).max() < 0.5
    assert (CONTROLS["rotated"](vectors, seed=1) != fed).any()


def test_random_orthogonal_is_uniform():
    """Over all orthogonal matrices, the trace has mean 0 and variance 1; plain QR has neither."""
    matrices = np.stack([random_orthogonal(6, seed=seed) for seed in range(2000)])
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.eye(6)[None].repeat(2000, 0), atol=1e-12
    )
    traces = np.trace(matrices, axis1=1, axis2=2)
    assert abs(traces.mean()) < 0.1
    assert traces.var() == pytest.approx(1, abs=0.12)


def test_an_unknown_control_names_the_known():
    with pytest.raises(SelfxError, match="none, zero, shuffled, rotated"):
        get_control("inverted")
    with pytest.raises(SelfxError, match="no-hint, no-question"):
        check_control("inverted")
    with pytest.raises(SelfxError) as caught:
        check_control("other-model")
    assert "--other-vectors MODEL" in caught.value.hint
