"""What differs from layer to layer, as data that the scan carries beside the weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.models.config import Config
from selfx.models.rotary import distinct, rotary_tables


class Differing:
    """The rotary embedding, the window and the scale of scores of every layer, for one text.

    Attributes:
      kinds: int32 `[l, 3]`, which of the model's few kinds of each a layer has.
    """

    def __init__(self, config: Config, position: jax.Array, source: jax.Array):
        scales = config.score_scales or (config.d_head**-0.5,)
        patterns = (config.ropes, config.windows, scales)
        parts = [distinct(pattern, config.n_layers) for pattern in patterns]
        (_, self.windows, self.scales), kinds = zip(*parts, strict=True)
        self.kinds = np.stack(kinds, axis=1)
        self.tables = rotary_tables(config, position)
        self.back = position[:, :, None] - source[:, None, :]
        self.visible = (source[:, None, :] >= 0) & (self.back >= 0)

    def __call__(self, kind: jax.Array) -> tuple[Any, jax.Array, Any]:
        """A layer's tables, what its tokens see, and the scale of its scores; `kind` is `[3]`."""
        tables, visible, scale = None, self.visible, self.scales[0]
        if self.tables is not None:
            tables = tuple(table[kind[0] if len(table) > 1 else 0] for table in self.tables)
        if self.windows != (None,):
            far = jnp.iinfo(jnp.int32).max
            limits = jnp.asarray([far if window is None else window for window in self.windows])
            visible = visible & (self.back < limits[kind[1]])
        if len(self.scales) > 1:
            scale = jnp.asarray(self.scales, jnp.float32)[kind[2]]
        return tables, visible, scale
