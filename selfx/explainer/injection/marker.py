"""A vector in place of the placeholder's embedding, at one length for all.

As natural-language autoencoders have it (kitft/natural_language_autoencoders: 150 for Qwen2.5-7B),
but counted in average token embeddings, so that one number serves models of every size. It must be
long: what the first layers write at the placeholder is many embeddings long, and buries a vector
of five (`experiments/explainers.py`: nothing is read of it, of one of fifty as much as of any).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfx.explainer.injection.slots import OUTSIDE, Held, Placed
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder

ABOUT = "in place of the placeholder's embedding, at a length counted in average embeddings"


def edit(model: Decoder, held: Held, strength: jax.Array) -> Edits:
    """The edit; `strength` average embedding lengths."""
    values = strength * embedding_length(model) * held.directions
    outside = jnp.full_like(held.layers, OUTSIDE)
    return Edits({"embeddings": (Placed(values, held.positions, outside),)})


def embedding_length(model: Decoder) -> jax.Array:
    """The mean norm of the rows of the embedding as they enter the first layer."""
    scale = model.config.embed_scale
    rows = jax.lax.stop_gradient(model.embed[...].astype(jnp.float32))
    return scale * jnp.linalg.norm(rows, axis=-1).mean()
