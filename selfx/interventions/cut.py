"""Edges of attention cut: tokens that do not see some others, in some heads of some layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.edits import EVERY, Edits
from selfx.interventions.select import check_heads, check_rows, layer_lists, position_lists
from selfx.models.config import Config
from selfx.models.sites import Site
from selfx.models.tap import Address, Array, check_layers


@struct.dataclass
class Cut:
    """Attention scores of minus infinity along some edges.

    Attributes:
      source: int32 `[b|1, n]`, positions not to be seen, or `EVERY`; -1 is none.
      target: int32 `[b|1, n]`, positions that are not to see them, or `EVERY`; -1 is none.
      layers: int32 `[b|1, m]`, or `EVERY`.
      heads: int32 `[b|1, m]`, or `EVERY`.
      mask: bool `[b|1, w]`, the real tokens among the first slots of the source axis, or None.
    """

    source: jax.Array
    target: jax.Array
    layers: jax.Array
    heads: jax.Array
    mask: jax.Array | None

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed scores `[b, t, h, s]`."""
        here = _is_in(at.layer.reshape(1, 1), self.layers)[..., None, None]
        head = _is_in(jnp.arange(x.shape[2])[None], self.heads)[:, None, :, None]
        target = _is_in(at.position, self.target)[..., None, None]
        source = _is_in(self._sources(x.shape[3], at), self.source)[:, None, None, :]
        return jnp.where(here & head & target & source, -jnp.inf, x)

    def _sources(self, slots: int, at: Address) -> jax.Array:
        """int32 `[b|1, s]`: the position in every slot of the source axis, -1 at padding."""
        if slots == at.position.shape[1]:  # no cache: the text sees itself
            return at.position
        width = 0 if self.mask is None else min(self.mask.shape[1], slots)
        rows = 1 if self.mask is None else self.mask.shape[0]
        real = jnp.ones((rows, slots), bool)
        if self.mask is not None:
            real = real.at[:, :width].set(self.mask[:, :width])
        return jnp.where(real, jnp.cumsum(real, axis=1) - 1, -1)

    def check(self, site: Site, config: Config, batch: int, length: int) -> None:
        """Raises SelfxError for layers, heads or positions that the run does not have."""
        for numbers in jax.tree.leaves(self):
            check_rows(numbers, site, batch)
        for positions in (self.source, self.target):
            if not isinstance(positions, jax.core.Tracer):
                last = int(np.asarray(positions).max(initial=-1))
                if last >= length:
                    raise SelfxError(
                        f"position {last} of an edge", expected=f"a position from 0 to {length - 1}"
                    )
        if not isinstance(self.layers, jax.core.Tracer):
            layers = np.asarray(self.layers).ravel()
            check_layers(layers[layers >= 0].tolist(), config, site.layered, site.name)
        if not isinstance(self.heads, jax.core.Tracer):
            heads = np.asarray(self.heads).ravel()
            check_heads(heads[heads >= 0], config, site)


def cut(
    source: Any = None,
    target: Any = None,
    *,
    layers: Any = None,
    heads: Any = None,
    mask: Array | None = None,
) -> Edits:
    """An edit that cuts attention edges: tokens at `target` do not see those at `source`.

    The attention knockout of Geva et al. 2023 (arXiv 2304.14767): their scores become minus
    infinity, so the other weights grow to sum to 1 again. A token left with nothing to see gets
    zeros.

    Args:
      source: positions not to be seen: one, int `[b]` for one in every row, or int `[b, n]` for up
        to `n`, -1 for none; None is every one.
      target: positions that are not to see them, likewise.
      layers: a layer, several, or int `[b, m]`; None is every layer.
      heads: likewise.
      mask: bool `[b, w]` of the prompts, if they are padded and text is being generated: the cache
        then has slots for padding, and an edit cannot tell which. Else it is not looked at.

    Raises:
      SelfxError: neither source nor target; positions, layers or heads that the run does not have.
    """
    if source is None and target is None:
        raise SelfxError(
            "edges neither from a source nor to a target",
            expected="positions for one of them",
            hint="to take whole heads out: selfx.knock_out",
        )
    edit = Cut(
        source=_or_every(source, position_lists),
        target=_or_every(target, position_lists),
        layers=_or_every(layers, layer_lists),
        heads=_or_every(heads, layer_lists),
        mask=None if mask is None else jnp.asarray(mask, bool),
    )
    return Edits({"attn_scores": (edit,)})


def _is_in(numbers: jax.Array, wanted: jax.Array) -> jax.Array:
    """bool `[b|1, n]`: which of `numbers` `[b|1, n]` are real and stand in `wanted` `[b|1, m]`."""
    hit = (numbers[:, :, None] == wanted[:, None, :]) | (wanted[:, None, :] == EVERY)
    return hit.any(axis=-1) & (numbers >= 0)


def _or_every(numbers: Any, lists: Callable[[Any], Array]) -> jax.Array:
    """int32 `[b|1, n]`: the numbers, or `EVERY` for None."""
    if numbers is None:
        return jnp.full((1, 1), EVERY, jnp.int32)
    numbers = lists(numbers)
    if not isinstance(numbers, jax.core.Tracer) and np.any(np.asarray(numbers) < -1):
        raise SelfxError(f"{int(numbers.min())} in a list", expected="numbers from 0, -1 for none")
    return jnp.asarray(numbers)
