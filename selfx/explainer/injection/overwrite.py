"""Vectors in place of the residual after a layer, at their own length: a span read from elsewhere.

LatentQA (arXiv 2412.08686) writes the activations of a span of tokens over as many placeholders of
the decoder, after its first layer.
"""

from __future__ import annotations

import jax

from selfx.explainer.injection.slots import Held, Placed
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder

ABOUT = "in place of the residual after a layer, as it is (LatentQA)"


def edit(model: Decoder, held: Held, strength: jax.Array) -> Edits:
    """The edit; `strength` times the vectors' own length."""
    values = strength * held.lengths * held.directions
    return Edits({"resid_post": (Placed(values, held.positions, held.layers),)})
