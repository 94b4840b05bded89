"""The best windows so far for every feature, kept on device while a corpus streams by.

`merge` keeps the `k` of highest key, of what it holds and a new batch. So the result after a pass
is the exact top `k`, whatever the batches were: the key decides, then the earlier window.
With random keys the same is an exact sample without replacement.

The further a pass has come, the fewer features gain anything from a batch: of `w` windows read, one
of 16 is among the best 20 with a chance of 320 / `w`. Only those that gain are worked on, some at a
time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

AT_ONCE = 128
"""Features that are worked on at once."""


@struct.dataclass
class Picks:
    """Windows chosen for every feature, best first.

    Attributes:
      key: float32 `[n, k]`, what they were chosen by; -inf where there is none.
      window: int32 `[n, k]`; -1 where there is none.
      document: int32 `[n, k]`.
      activations: float32 `[n, k, t]`, the feature at every token of the window.
    """

    key: jax.Array
    window: jax.Array
    document: jax.Array
    activations: jax.Array


def empty(features: int, k: int, length: int) -> Picks:
    """Picks of nothing yet."""
    window, document = (jnp.full((features, k), -1, jnp.int32) for _ in range(2))
    key = jnp.full((features, k), -jnp.inf)
    return Picks(key, window, document, jnp.zeros((features, k, length)))


def merge(
    picks: Picks,
    key: jax.Array,
    window: jax.Array,
    document: jax.Array,
    activations: jax.Array,
    *,
    once: bool,
) -> Picks:
    """The best of what is held and of a batch.

    Args:
      picks: what is held.
      key: float32 `[n, b]`; -inf where a window is not to be taken.
      window: int32 `[b]`, rising, and higher than any before.
      document: int32 `[b]`.
      activations: float32 `[b, t, n]`, as they are read.
      once: keep of each document only its best window.
    """
    features = len(key)
    gains = (key > picks.key[:, -1:]).any(axis=1)
    count, size = gains.sum(), min(AT_ONCE, features)
    (rows,) = jnp.nonzero(gains, size=-(-features // size) * size, fill_value=features)

    def some(state: tuple[jax.Array, Picks]) -> tuple[jax.Array, Picks]:
        done, picks = state
        here = jax.lax.dynamic_slice(rows, (done,), (size,))
        held = jax.tree.map(lambda leaf: leaf.at[here].get(mode="clip"), picks)
        fresh = activations.at[:, :, here].get(mode="clip").transpose(2, 0, 1)
        best = _best(held, key.at[here].get(mode="clip"), window, document, fresh, once)
        put = jax.tree.map(lambda leaf, new: leaf.at[here].set(new, mode="drop"), picks, best)
        return done + size, put

    return jax.lax.while_loop(lambda state: state[0] < count, some, (jnp.int32(0), picks))[1]


def _best(
    picks: Picks,
    key: jax.Array,
    window: jax.Array,
    document: jax.Array,
    activations: jax.Array,
    once: bool,
) -> Picks:
    """As `merge`, with activations `[n, b, t]`, worked out for every feature."""
    k = picks.key.shape[1]
    keys = jnp.concatenate([picks.key, key], axis=1)
    documents = _beside(picks.document, document)
    if once:
        keys = jnp.where(_beaten(keys, documents), -jnp.inf, keys)
    best, index = jax.lax.top_k(keys, k)
    found = best > -jnp.inf
    window, document = (
        jnp.where(found, jnp.take_along_axis(numbers, index, axis=1), -1)
        for numbers in (_beside(picks.window, window), documents)
    )
    held, fresh = jnp.minimum(index, k - 1), jnp.maximum(index - k, 0)
    kept = jnp.where(
        (index < k)[..., None],
        jnp.take_along_axis(picks.activations, held[..., None], axis=1),
        jnp.take_along_axis(activations, fresh[..., None], axis=1),
    )
    return Picks(best, window, document, jnp.where(found[..., None], kept, 0.0))


def _beside(held: jax.Array, batch: jax.Array) -> jax.Array:
    """int32 `[n, k + b]`."""
    return jnp.concatenate([held, jnp.broadcast_to(batch, (held.shape[0], len(batch)))], axis=1)


def _beaten(keys: jax.Array, documents: jax.Array) -> jax.Array:
    """bool `[n, c]`: whether its document has a window of higher key, or an earlier equal one."""
    place = jnp.arange(keys.shape[1])
    same = documents[:, :, None] == documents[:, None, :]
    higher = keys[:, None, :] > keys[:, :, None]
    earlier = (keys[:, None, :] == keys[:, :, None]) & (place[None, :] < place[:, None])
    return (same & (higher | earlier)).any(axis=2)
