"""A vector in place of the placeholder's embedding, at its own length (arXiv 2511.08579)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfx.explainer.injection.slots import OUTSIDE, Held, Placed
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder

ABOUT = "in place of the placeholder's embedding, as it is (the paper)"


def edit(model: Decoder, held: Held, strength: jax.Array) -> Edits:
    """The edit; `strength` times the vector's own length."""
    values = strength * held.lengths * held.directions
    outside = jnp.full_like(held.layers, OUTSIDE)
    return Edits({"embeddings": (Placed(values, held.positions, outside),)})
