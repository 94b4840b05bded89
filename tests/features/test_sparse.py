from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from selfx.features.training.grid import _adam, _update, geometric_median
from selfx.features.training.jump import jump, step
from selfx.features.training.objective import Objective, Weights, loss, unit
from selfx.features.training.sparse import (
    BLOCK,
    _dense,
    _dots_dense,
    _group_size,
    _sorted,
    dots,
    kth_largest,
    largest,
    mix,
    pick,
    spread,
    tally,
)

B, D, N, K = 21, 12, 40, 5


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    shapes = {"x": (B, D), "enc": (N, D), "bias": (N,), "dec": (N, D), "y": (B, D)}
    return {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
    }


def near(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5 * float(np.abs(b).max()))


def test_sparse_products_and_all_their_gradients_are_those_of_dense_ones(arrays):
    """Against plain products, all but the largest masked, differentiated by JAX."""

    def sparse(x, enc, bias, dec, y):
        values, index = pick(x, enc, bias, K)
        return (jnp.sin(mix(jax.nn.relu(values), index, dec)) * y).sum()

    def dense(x, enc, bias, dec, y):
        pre = x @ enc.T + bias
        kept = pre >= jax.lax.stop_gradient(jnp.sort(pre, axis=1)[:, -K, None])
        return (jnp.sin(jnp.where(kept, jax.nn.relu(pre), 0) @ dec) * y).sum()

    both = [jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*arrays.values()) for f in (sparse, dense)]
    jax.tree.map(near, *both)


def test_under_vmap_too(arrays):
    def loss(enc, dec, x):
        values, index = pick(x, enc, jnp.zeros(N), K)
        return jnp.square(x - mix(values, index, dec)).sum()

    stacked = [
        jnp.stack([arrays[name], 2 * arrays[name], arrays[name] - 1]) for name in ("enc", "dec")
    ]
    run = jax.grad(loss, (0, 1))
    many = jax.jit(jax.vmap(run, (0, 0, None)))(*stacked, arrays["x"])
    each = [jax.jit(run)(*parts, arrays["x"]) for parts in zip(*stacked, strict=True)]
    jax.tree.map(near, many, jax.tree.map(lambda *parts: jnp.stack(parts), *each))


def test_what_an_accelerator_runs_is_the_same(arrays):
    values, index = pick(arrays["x"], arrays["enc"], arrays["bias"], K)
    near(_dense(N)(values, index, arrays["y"]), spread(values, index, arrays["y"], N))
    near(_dots_dense(arrays["y"], index, arrays["dec"]), dots(arrays["y"], index, arrays["dec"]))
    jax.tree.map(near, _sorted(K)(arrays["x"], arrays["enc"], arrays["bias"]), (values, index))
    near(_dense(N)(values, index, jnp.ones((B, 1)))[:, 0], tally(values, index, N))


def rows_of(kind, n):
    """16 rows of float32 `[16, n]`, in NumPy."""
    rows = np.random.default_rng(n).standard_normal((16, n)).astype(np.float32)
    match kind:
        case "ties":
            return np.round(4 * rows) / 4
        case "negative":
            return -np.abs(rows) - 5
        case "close together":
            return 1 + 1e-6 * rows
        case "some rows close":
            return np.where(np.arange(16)[:, None] % 5 == 0, 1 + 1e-6 * rows, rows)
        case "in one group":
            rows[:, np.arange(n) % (n // _group_size(n, 7)) == 3] += 10
        case "infinite":
            rows[0, 5], rows[1, 5:9], rows[2, ::2], rows[3] = np.inf, -np.inf, -np.inf, -np.inf
    return rows


@pytest.mark.parametrize(("n", "members"), [(896, 32), (600, 8), (224, 8), (117, 1)])
@pytest.mark.parametrize(
    "kind",
    ["random", "ties", "negative", "close together", "some rows close", "in one group", "infinite"],
)
def test_the_largest_are_those_of_a_stable_sort(n, members, kind):
    """Values and places to the bit, equals by place; also where too many come close to sort few."""
    rows, k = rows_of(kind, n), 7
    assert _group_size(n, k) == members
    values, index = jax.jit(jax.vmap(largest, (0, None)), static_argnums=1)(rows, k)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(rows, expected, axis=1))


def test_tokens_searched_in_blocks_are_all_searched():
    """Two blocks, the last one not full."""
    rng, n = np.random.default_rng(2), BLOCK // 128
    x, rows = rng.standard_normal((131, 4)), rng.standard_normal((n, 4))
    x, rows = x.astype(np.float32), rows.astype(np.float32)
    values, index = jax.jit(pick, static_argnums=3)(x, rows, jnp.zeros(n), 3)
    expected = np.sort(x.astype(np.float64) @ rows.T, axis=1)[:, :-4:-1]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose((x[:, None] * rows[index]).sum(axis=-1), expected, rtol=1e-5)


@pytest.mark.parametrize("k", [3, 8])
def test_gradients_are_those_of_a_dense_layer_in_float64(k):
    """The whole loss, worked out by hand in NumPy; a member of less than the largest `k` too."""
    rng, (b, d, n) = np.random.default_rng(k), (150, 24, 512)
    enc, dec, x = (rng.standard_normal(shape) for shape in ((n, d), (n, d), (b, d)))
    b_enc, b_dec = 0.3 * rng.standard_normal(n), rng.standard_normal(d)
    pre = x @ enc.T + b_enc
    f = np.where(pre >= np.sort(pre, axis=1)[:, -k, None], np.maximum(pre, 0), 0)
    slope = 2 * (f @ dec + b_dec - x) / x.size
    back = (slope @ dec.T) * (f > 0)
    expected = Weights(back.T @ x, back.sum(axis=0), f.T @ slope, slope.sum(axis=0), None)
    weights = Weights(*(jnp.asarray(w, jnp.float32) for w in (enc, b_enc, dec, b_dec)), None)
    one = jnp.asarray(x, jnp.float32)
    given = (weights, jnp.zeros(n, jnp.int32), jnp.int32(k), one, one)
    own = partial(loss, objective=Objective(), k_max=8, revive=False)
    (total, seen), slopes = jax.jit(jax.value_and_grad(own, has_aux=True))(*given)
    jax.tree.map(near, slopes, expected)
    np.testing.assert_allclose(total, np.square(f @ dec + b_dec - x).mean(), rtol=1e-5)
    np.testing.assert_array_equal(seen.fired, (f > 0).any(axis=0))
    assert seen.on == (f > 0).sum()


@pytest.mark.parametrize("k", [1, 7, 100, 251, 252])
def test_the_kth_largest_is_exact(k):
    values = np.maximum(np.random.default_rng(k).standard_normal((21, 12)), 0).astype(np.float32)
    assert jax.jit(kth_largest)(jnp.asarray(values), k) == np.sort(values.ravel())[-k]


def test_slopes_at_a_threshold_are_those_of_the_paper():
    """Eq. 11 and 12 of arXiv 2407.14435 for one latent, worked out by hand."""
    pre = jnp.array([[0.2], [0.96], [1.03], [2.0], [-3.0]])
    threshold, width = jnp.array([1.0]), 0.1
    weight = jnp.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    by_pre, by_threshold = jax.grad(lambda p, t: (weight * jump(p, t, width)).sum(), (0, 1))(
        pre, threshold
    )
    np.testing.assert_allclose(by_pre[:, 0], [0, 0, 3, 4, 0])
    np.testing.assert_allclose(by_threshold, [-1.0 / 0.1 * (2 + 3)], rtol=1e-6)
    by_pre, by_threshold = jax.grad(lambda p, t: (weight * step(p, t, width)).sum(), (0, 1))(
        pre, threshold
    )
    assert (by_pre == 0).all()
    np.testing.assert_allclose(by_threshold, [-(2 + 3) / 0.1], rtol=1e-6)


def test_a_step_is_optaxs_adam_on_the_sphere(arrays):
    rng = np.random.default_rng(1)
    dec = unit(arrays["dec"])
    weights = Weights(arrays["enc"], arrays["bias"], dec, jnp.zeros(D), None)
    adam = optax.adam(0.01, eps=6.25e-10)
    expected, state = weights, adam.init(weights)
    moments = tuple(jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
    for number in range(3):
        grads = jax.tree.map(
            lambda w: jnp.asarray(rng.standard_normal(w.shape), jnp.float32), weights
        )
        rate, eps = _adam(jnp.float32(0.01), jnp.int32(number))
        weights, moments = _update(weights, grads, moments, rate, eps)
        tangent = grads.dec - jnp.sum(grads.dec * expected.dec, 1, keepdims=True) * expected.dec
        updates, state = adam.update(grads.replace(dec=tangent), state)
        expected = optax.apply_updates(expected, updates)
        expected = expected.replace(
            dec=expected.dec / jnp.linalg.norm(expected.dec, axis=1)[:, None]
        )
        jax.tree.map(near, weights, expected)


def test_the_geometric_median_is_where_distances_are_least():
    x = np.random.default_rng(0).standard_normal((60, 3))
    x[:4] += 200
    best = minimize(lambda p: np.linalg.norm(x - p, axis=1).sum(), x.mean(axis=0), tol=1e-12).x
    found = geometric_median(jnp.asarray(x, jnp.float32), steps=60)
    np.testing.assert_allclose(found, best, atol=2e-3)
    assert np.linalg.norm(x.mean(axis=0) - best) > 10
