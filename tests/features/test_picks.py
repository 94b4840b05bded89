"""The best windows of a stream: what is kept is what sorting everything at the end would keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.features.exemplars.picks import AT_ONCE, empty, merge

FEATURES, WINDOWS, LENGTH, KEPT = 2 * AT_ONCE + 9, 96, 3, 4
DOCUMENTS = np.repeat(np.arange(40), 5)[:WINDOWS].astype(np.int32)


@pytest.fixture(scope="module")
def stream():
    """Keys `[n, w]` with many ties and many gaps, and activations `[w, t, n]`."""
    rng = np.random.default_rng(0)
    key = rng.integers(0, 9, (FEATURES, WINDOWS)).astype(np.float32)
    key[rng.random(key.shape) < 0.3] = -np.inf
    key[5] = -np.inf
    key[6, :-1] = -np.inf
    return key, jnp.asarray(rng.random((WINDOWS, LENGTH, FEATURES)), jnp.float32)


def streamed(stream, batch, once):
    key, activations = stream
    picks = empty(FEATURES, KEPT, LENGTH)
    step = jax.jit(merge, static_argnames="once")
    for first in range(0, WINDOWS, batch):
        part = slice(first, first + batch)
        windows = jnp.arange(WINDOWS, dtype=jnp.int32)[part]
        picks = step(picks, key[:, part], windows, DOCUMENTS[part], activations[part], once=once)
    return picks


def sorted_at_the_end(key, once):
    """A feature's windows from the highest key down, the earlier of equal ones first."""
    best = {}
    for window in np.argsort(-key, kind="stable"):
        if key[window] > -np.inf:
            best.setdefault(DOCUMENTS[window] if once else window, window)
    return list(best.values())[:KEPT]


@pytest.mark.parametrize("once", [False, True], ids=["any window", "a document once"])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_a_stream_leaves_what_sorting_everything_would(stream, batch, once):
    key, activations = stream[0], np.asarray(stream[1])
    got = jax.tree.map(np.asarray, streamed(stream, batch, once))
    for feature in range(FEATURES):
        wanted = sorted_at_the_end(key[feature], once)
        found = len(wanted)
        np.testing.assert_array_equal(got.window[feature, :found], wanted)
        np.testing.assert_array_equal(got.key[feature, :found], key[feature, wanted])
        np.testing.assert_array_equal(got.document[feature, :found], DOCUMENTS[wanted])
        np.testing.assert_array_equal(
            got.activations[feature, :found], activations[wanted, :, feature]
        )
        assert (got.window[feature, found:] == -1).all()
        assert (got.activations[feature, found:] == 0).all()


def test_a_batch_from_which_nothing_is_gained_changes_nothing(stream):
    before = streamed(stream, 32, once=False)
    worse = jnp.where(jnp.arange(FEATURES)[:, None] % 2 == 0, before.key[:, -1:], -jnp.inf)
    args = jnp.full(1, WINDOWS, jnp.int32), jnp.full(1, 99, jnp.int32), stream[1][:1]
    after = merge(before, worse, *args, once=False)
    jax.tree.map(np.testing.assert_array_equal, after, before)
