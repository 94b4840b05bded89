"""Attention heads taken out, any of them in any layers at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.build import ablate
from selfx.interventions.edits import Edits
from selfx.interventions.recorded import replay
from selfx.interventions.select import check_heads, check_rows
from selfx.models.config import Config
from selfx.models.sites import Site
from selfx.models.tap import Address, Array, Edit, check_layers


@struct.dataclass
class OnHeads:
    """An edit confined to some heads of some layers.

    Attributes:
      edit: what is done to them.
      heads: int32 `[b|1, n, 2]`, (layer, head) each; a layer of -1 is none.
    """

    edit: Edit
    heads: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, h, ...]`."""
        layers, heads = self.heads[..., 0, None], self.heads[..., 1, None]
        meant = ((layers == at.layer) & (heads == jnp.arange(x.shape[2]))).any(axis=1)
        meant = meant.reshape(-1, 1, x.shape[2], *(1,) * (x.ndim - 3))
        return jnp.where(meant, self.edit(x, at), x)

    def check(self, site: Site, config: Config, batch: int, length: int) -> None:
        """Raises SelfxError for heads that the model does not have."""
        check_rows(self.heads, site, batch)
        if not isinstance(self.heads, jax.core.Tracer):
            several = np.asarray(self.heads).reshape(-1, 2)
            several = several[several[:, 0] >= 0]
            check_layers(several[:, 0].tolist(), config, site.layered, site.name)
            check_heads(several[:, 1], config, site)
        inner = getattr(self.edit, "check", None)
        if inner is not None:
            inner(site, config, batch, length)


def knock_out(
    heads: Iterable[tuple[int, int]] | Array,
    *,
    kind: str = "zero",
    value: Any = None,
    positions: Any = None,
    mask: Array | None = None,
) -> Edits:
    """An edit that takes attention heads out, at `z`: what they would have added is not added.

    Args:
      heads: (layer, head) each, or int `[b, n, 2]` for other ones in every row, -1 for none.
      kind: `zero`, `mean` or `resample`.
      value: the mean, `[h, e]` or `[l, h, e]`; or, to resample, another run's capture of `z`,
        `[l, b, t, h, e]`, which is put back position by position.
      positions: a position, or int `[b]` for one in every row; None is every position.
      mask: bool `[b, t]` of the other run, if it was padded.

    Raises:
      SelfxError: no heads, or heads that the model does not have; values as in `selfx.ablate`.
    """
    pairs = heads if isinstance(heads, jax.Array) else np.asarray(list(heads), np.int32)
    if pairs.ndim not in (2, 3) or pairs.shape[-1] != 2 or not pairs.size:
        raise SelfxError(
            f"heads of shape {list(pairs.shape)}",
            expected="at least one (layer, head), such as [(3, 0), (5, 1)]",
        )
    value = None if value is None else jnp.asarray(value)
    if kind == "resample" and value is not None and value.ndim == 5:
        edits = replay("z", value, mask=mask, positions=positions)
    else:
        value = value if value is None or value.ndim != 3 else value[None]  # [l, h, e], all rows
        edits = ablate("z", kind=kind, value=value, positions=positions)
    pairs = jnp.asarray(pairs, jnp.int32).reshape(-1, *pairs.shape[-2:])
    return Edits({"z": tuple(OnHeads(edit, pairs) for edit in edits["z"])})
