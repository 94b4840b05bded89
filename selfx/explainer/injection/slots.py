"""What injections are made of: vectors held for placeholders, and the edit that puts them there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from selfx.explainer.reader import length
from selfx.models.tap import Address

OUTSIDE = 0
"""The layer index that sites outside the layers are met with."""


@struct.dataclass
class Held:
    """What is to be read at each of `m` placeholders of each row.

    Attributes:
      directions: `[b, m, d]`, of length about 1; zeros for a vector of zeros.
      lengths: `[b, m, 1]`, of the vectors as the target had them.
      positions: int32 `[b, m]`, where the placeholders stand, -1 for none.
      layers: int32 `[b, m]`, after which layer of the explainer, -1 for none.
    """

    directions: jax.Array
    lengths: jax.Array
    positions: jax.Array
    layers: jax.Array


@struct.dataclass
class Placed:
    """Values put at placeholders: in place of what is there, or added to it at its own length.

    Attributes:
      values: `[b, m, d]`.
      positions: int32 `[b, m]`, -1 for none.
      layers: int32 `[b, m]`, the layer to act in, `OUTSIDE` at a site that is in none.
      relative: whether `x <- x + |x| * value` rather than `x <- value`. Static.
    """

    values: jax.Array
    positions: jax.Array
    layers: jax.Array
    relative: bool = struct.field(pytree_node=False, default=False)

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, d]`; a place that holds no vector is untouched to the bit."""
        match = (at.position[:, :, None] == self.positions[:, None]) & (self.layers == at.layer)[
            :, None
        ]
        match = match & (self.positions >= 0)[:, None]
        here, which = match.any(axis=-1, keepdims=True), match.argmax(axis=-1)
        values = jnp.take_along_axis(self.values, which[..., None], axis=1)
        if self.relative:
            wide = x.astype(jnp.float32)
            values = wide + length(wide) * values
        return jnp.where(here, values.astype(x.dtype), x)
