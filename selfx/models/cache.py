"""Keys and values of the tokens already seen, for decoding one token at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.models.config import Config
from selfx.models.stack import Apart, split


@struct.dataclass
class Cache:
    """What attention needs of the past.

    Attributes:
      k: `[l, b, k, e, s]`, keys turned, or `Apart` with `[b, k, e, s]` a layer.
      v: `[l, b, k, s, e]`, or `Apart` likewise; both lie as attention multiplies by them.
      position: int32 `[b, s]`, the position of the token in each slot, -1 for padding or empty.
      filled: int32 scalar, how many slots are written, the same for every row.
    """

    k: jax.Array | Apart
    v: jax.Array | Apart
    position: jax.Array
    filled: jax.Array

    @property
    def next_position(self) -> jax.Array:
        """int32 `[b]`: how many real tokens each row holds."""
        return self.position.max(axis=1) + 1


def empty(config: Config, batch: int, slots: int, dtype: Any) -> Cache:
    """A cache with room for `slots` tokens a row, padding included."""
    heads = (config.n_layers, batch, config.n_kv_heads)
    return Cache(
        k=jnp.zeros((*heads, config.d_head, slots), dtype),
        v=jnp.zeros((*heads, slots, config.d_head), dtype),
        position=jnp.full((batch, slots), -1, jnp.int32),
        filled=jnp.int32(0),
    )


def apart(cache: Cache, n_layers: int) -> Cache:
    """The same with each layer in arrays of its own, for a model with layers apart."""
    k, v = split(cache.k, n_layers), split(cache.v, n_layers)
    return Cache(k, v, cache.position, cache.filled)


def write(old: jax.Array, new: jax.Array, start: jax.Array, axis: int) -> jax.Array:
    """`old` with `new` written along `axis` from slot `start` on."""
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis)


def repeated(cache: Cache, times: int) -> Cache:
    """The same with every row `times` times, one after the other."""
    k, v = (
        jax.tree.map(lambda x: jnp.repeat(x, times, axis=x.ndim - 4), part)
        for part in (cache.k, cache.v)
    )
    return Cache(k, v, jnp.repeat(cache.position, times, axis=0), cache.filled)


def reordered(cache: Cache, rows: jax.Array, start: int) -> Cache:
    """The same with row `rows[i]` in the place of row `i` from slot `start` on.

    Before it, which is not touched, being long, each of these pairs must be alike.
    """

    def take(x: jax.Array, axis: int, slots: int) -> jax.Array:
        room = x.shape[slots] - start
        late = jax.lax.slice_in_dim(x, start, start + room, axis=slots)
        return write(x, jnp.take(late, rows, axis=axis), jnp.int32(start), slots)

    return Cache(
        k=jax.tree.map(lambda x: take(x, x.ndim - 4, x.ndim - 1), cache.k),
        v=jax.tree.map(lambda x: take(x, x.ndim - 4, x.ndim - 2), cache.v),
        position=take(cache.position, 0, 1),
        filled=cache.filled,
    )
