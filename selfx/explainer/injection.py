"""How a target's vector enters the explainer, at the placeholder that stands for it.

raw      replaces the placeholder's embedding, as it is (arXiv 2511.08579)
matched  the same at `strength` times the length of an average token embedding: residual norms
         differ from embedding norms by orders of magnitude in small models, and a vector that
         drowns its neighbours cannot be read
layer    is added to the residual after the layer that it was taken from, at `strength` times
         the residual's own length there (the addition of Activation Oracles, arXiv 2512.15674,
         which is made at one early layer): there the explainer's later layers know what to do
         with it, as far as it still is the target
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from selfx.interventions.build import inject
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder
from selfx.models.tap import Address, Array

Scaling = Literal["raw", "matched", "layer"]


@struct.dataclass
class Added:
    """`x <- x + strength * |x| * v / |v|` at one layer and position of each row; 0 adds nothing.

    Attributes:
      vectors: `[b, d]`.
      layers: int32 `[b]`; -1 is none.
      positions: int32 `[b]`; -1 is none.
      strength: scalar.
    """

    vectors: jax.Array
    layers: jax.Array
    positions: jax.Array
    strength: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, d]`."""
        where = (at.position == self.positions[:, None]) & (self.positions >= 0)[:, None]
        here = where & (self.layers == at.layer)[:, None]
        length = jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
        step = self.strength * length * _unit(self.vectors)[:, None]
        return jnp.where(here[..., None], x + step.astype(x.dtype), x)


def rescale(model: Decoder, vectors: Array, scaling: Scaling, strength: float) -> jax.Array:
    """`vectors` `[b, d]` at the length at which the explainer reads them; zeros stay zeros."""
    vectors = jnp.asarray(vectors)
    if scaling == "raw":
        return vectors
    embed = model.config.embed_scale * model.embed[...].astype(jnp.float32)
    return _unit(vectors) * strength * jnp.linalg.norm(embed, axis=-1).mean()


def injection(
    model: Decoder,
    vectors: Array,
    slots: Array,
    scaling: Scaling,
    strength: float,
    layers: Array | None = None,
) -> Edits:
    """The edit that lets rows read `vectors` `[b, d]` at positions `slots` `[b]`, -1 for none.

    Args:
      model: the explainer's weights.
      vectors, slots: what is read where.
      scaling, strength: how it enters, as above.
      layers: int `[b]`, after which layer each was taken; for `layer` only.
    """
    if scaling != "layer":
        return inject(rescale(model, vectors, scaling, strength), positions=slots)
    at = jnp.asarray(-1 if layers is None else layers, jnp.int32)
    at = jnp.broadcast_to(at, jnp.shape(slots))
    added = Added(jnp.asarray(vectors), at, jnp.asarray(slots), jnp.float32(strength))
    return Edits({"resid_post": (added,)})


def _unit(vectors: Array) -> jax.Array:
    """`vectors` at length 1; zeros stay zeros."""
    vectors = jnp.asarray(vectors)
    squares = (vectors * vectors).sum(axis=-1, keepdims=True)
    norms = jnp.sqrt(jnp.where(squares > 0, squares, 1))  # the root at 0 has no finite gradient
    return jnp.where(squares > 0, vectors / norms, 0)
