"""Keys and values of the tokens already seen, for decoding one token at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.models.config import Config


@struct.dataclass
class Cache:
    """What attention needs of the past.

    Attributes:
      k, v: `[l, b, s, k, e]`; keys are stored turned.
      position: int32 `[b, s]`, the position of the token in each slot, -1 for padding or empty.
      filled: int32 scalar, how many slots are written, the same for every row.
    """

    k: jax.Array
    v: jax.Array
    position: jax.Array
    filled: jax.Array

    @property
    def next_position(self) -> jax.Array:
        """int32 `[b]`: how many real tokens each row holds."""
        return self.position.max(axis=1) + 1


def empty(config: Config, batch: int, slots: int, dtype: Any) -> Cache:
    """A cache with room for `slots` tokens a row, padding included."""
    shape = (config.n_layers, batch, slots, config.n_kv_heads, config.d_head)
    return Cache(
        k=jnp.zeros(shape, dtype),
        v=jnp.zeros(shape, dtype),
        position=jnp.full((batch, slots), -1, jnp.int32),
        filled=jnp.int32(0),
    )


def write(old: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
    """`old` `[b, s, ...]` with `new` `[b, t, ...]` written from slot `start` on."""
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
