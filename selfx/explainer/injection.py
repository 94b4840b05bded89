"""How a target's vector enters the explainer: it replaces one placeholder's embedding.

`raw` is arXiv 2511.08579: the vector as it is. `matched` first gives it `strength` times the length
of an average token embedding: residual norms differ from embedding norms by orders of magnitude in
small models, and a vector that drowns its neighbours cannot be read.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from selfx.interventions.build import inject
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder
from selfx.models.tap import Array

Scaling = Literal["raw", "matched"]


def rescale(model: Decoder, vectors: Array, scaling: Scaling, strength: float) -> jax.Array:
    """`vectors` `[b, d]` at the length at which the explainer reads them; zeros stay zeros."""
    vectors = jnp.asarray(vectors)
    if scaling == "raw":
        return vectors
    embed = model.config.embed_scale * model.embed[...].astype(jnp.float32)
    target = strength * jnp.linalg.norm(embed, axis=-1).mean()
    squares = (vectors * vectors).sum(axis=-1, keepdims=True)
    norms = jnp.sqrt(jnp.where(squares > 0, squares, 1))  # the root at 0 has no finite gradient
    return jnp.where(squares > 0, vectors * target / norms, 0)


def injection(
    model: Decoder,
    vectors: Array,
    slots: Array,
    scaling: Scaling,
    strength: float,
) -> Edits:
    """The edit that writes `vectors` `[b, d]` at positions `slots` `[b]`; -1 writes nothing."""
    return inject(rescale(model, vectors, scaling, strength), positions=slots)
