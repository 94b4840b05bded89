"""A vector added to the residual after a layer, at the residual's own length there.

Activation Oracles (arXiv 2512.15674) do so after an early layer (1); after the layer that the
vector was taken from, the explainer's later layers know what to do with it as far as the explainer
still is the target.
"""

from __future__ import annotations

import jax

from selfx.explainer.injection.slots import Held, Placed
from selfx.interventions.edits import Edits
from selfx.models.decoder import Decoder

ABOUT = "added to the residual after a layer, at the residual's length (Activation Oracles)"


def edit(model: Decoder, held: Held, strength: jax.Array) -> Edits:
    """The edit; `strength` lengths of the residual that it is added to."""
    values = strength * held.directions
    return Edits({"resid_post": (Placed(values, held.positions, held.layers, relative=True),)})
