"""A decoder that has learned nothing yet, its weights drawn so that it can."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_shapes

SPREAD = 0.02
"""Standard deviation of the weights, as GPT-2 has it."""


def fresh_model(config: Config, seed: int = 0, dtype: Any = jnp.float32) -> Decoder:
    """A decoder as GPT-2 starts: normal weights, norms at 1, biases at 0.

    What attention and MLP write into the residual is drawn smaller, by the square root of how many
    of them there are, so that the residual does not grow with depth.
    """
    rng = np.random.default_rng(seed)
    parameters = {}
    for path, leaf in parameter_shapes(config, dtype).items():
        if "norm" in path or path.endswith(".b"):
            one = path.endswith(".w") and config.norm != "rms_plus_one"
            drawn = np.full(leaf.shape, float(one))
        else:
            into = path in ("blocks.o.w", "blocks.down.w")
            spread = SPREAD / math.sqrt(2 * config.n_layers) if into else SPREAD
            drawn = spread * rng.standard_normal(leaf.shape)
        parameters[path] = jnp.asarray(drawn, dtype)
    return from_parameters(config, parameters, dtype)
