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
    embed = model.embed[...].astype(jnp.float32)
    target = strength * jnp.linalg.norm(embed, axis=-1).mean()
    norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return jnp.where(norms > 0, vectors * target / jnp.maximum(norms, 1e-12), 0)


def injection(
    model: Decoder,
    vectors: Array,
    slots: Array,
    scaling: Scaling,
    strength: float,
) -> Edits:
    """The edit that writes `vectors` `[b, d]` at positions `slots` `[b]`; -1 writes nothing."""
    return inject(rescale(model, vectors, scaling, strength), positions=slots)
