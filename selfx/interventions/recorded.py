"""Another run's activations put back, slot by slot: every layer and position its own value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.edits import Edits
from selfx.interventions.select import layer_lists, listed, position_lists
from selfx.models.config import Config
from selfx.models.sites import Site, find
from selfx.models.tap import Address, Array, check_outside_layers, gather_positions


@struct.dataclass
class Recorded:
    """`x <- values` where `chosen`, each token getting what stood at its own real position.

    The token at position `p` of a row gets `values[layer, row, p]`, wherever padding stands in
    either run. Padding, and positions that `values` does not reach, pass through to the bit. Only
    the source axis of attention sites counts slots, as the glossary says: there both runs must be
    padded alike.

    Attributes:
      values: `[l, b|1, t, *feature]`, `t` by real position; `l` is 1 at sites outside the layers.
      chosen: bool, of as many axes, sizes of 1 broadcasting.
    """

    values: jax.Array
    chosen: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, *feature]`."""
        known = (at.position >= 0) & (at.position < self.values.shape[2])
        hit = _here(self.chosen, at) & known.reshape(*known.shape, *(1,) * (x.ndim - 2))
        return jnp.where(hit, _here(self.values, at).astype(x.dtype), x)

    def check(self, site: Site, config: Config, batch: int, length: int) -> None:
        """Raises SelfxError where shapes do not fit the run."""
        layers = config.n_layers if site.layered else 1
        if self.values.shape[0] != layers:
            raise SelfxError(
                f"a recording of {self.values.shape[0]} layers at {site.name!r}",
                expected=f"{layers}, as a capture of all layers gives",
            )
        rows = {self.values.shape[1], self.chosen.shape[1]} - {1, batch}
        if rows:
            raise SelfxError(
                f"a recording of {rows.pop()} rows at {site.name!r}", expected=f"1 row or {batch}"
            )
        for name, shape in (("values", self.values.shape[3:]), ("part", self.chosen.shape[3:])):
            if not site.broadcasts(shape, config) or len(shape) != len(site.axes):
                raise SelfxError(
                    f"a recording's {name} of shape {list(shape)} at {site.name!r}",
                    expected=site.describe_shape(config),
                )
        if "s" in site.axes and self.values.shape[-1] not in (1, length):
            raise SelfxError(
                f"a recording of {self.values.shape[-1]} source tokens at {site.name!r}",
                expected=f"{length}, as many as the run holds, cache and padding included",
            )


def replay(
    site: str,
    values: Any,
    *,
    mask: Array | None = None,
    layers: Any = None,
    positions: Any = None,
    part: Any = None,
) -> Edits:
    """An edit that puts back what another run had at a site.

    Args:
      site: a name in `selfx.models.sites`.
      values: that run's capture, `[l, b, t, *feature]`, or `[b, t, *feature]` outside the layers;
        one row serves all.
      mask: bool `[b, t]` of that run, if it was padded; position `p` is its `p`-th real token.
      layers: a layer, several, or int `[b, m]` to choose up to `m` in every row, -1 for none; None
        is every layer.
      positions: a position, int `[b]` for one in every row, or int `[b, n]` for up to `n`, -1 for
        none; None is every position that both runs have.
      part: bool `[*feature]` or `[b, *feature]`, axes of 1 broadcasting: which heads or neurons.

    Raises:
      SelfxError: an unknown site, a layer or position that `values` does not have, shapes that do
        not fit.
    """
    about = find(site)
    values = _canonical(jnp.asarray(values), about)
    n_layers, _, length = values.shape[:3]
    chosen = jnp.ones((n_layers, 1, length), bool)
    if layers is not None:
        check_outside_layers(about)
        chosen = chosen & listed(layer_lists(layers), n_layers, "layer").T[:, :, None]
    if positions is not None:
        chosen = chosen & listed(position_lists(positions), length, "position")
    if mask is not None:
        values, real = _by_position(values, jnp.asarray(mask, bool))
        chosen = chosen & real
    chosen = chosen.reshape(*chosen.shape, *(1,) * len(about.axes))
    if part is not None:
        chosen = chosen & _part(jnp.asarray(part, bool), about)
    return Edits({about.name: (Recorded(values, chosen),)})


def _here(array: jax.Array, at: Address) -> jax.Array:
    """`[b|1, t, *feature]`: this layer's part of `[l|1, b|1, t|1, *feature]`, for each token."""
    layer = at.layer if array.shape[0] > 1 else 0
    array = jax.lax.dynamic_index_in_dim(array, layer, 0, keepdims=False)
    index = jnp.clip(at.position, 0, array.shape[1] - 1)
    return jnp.take_along_axis(array, index.reshape(*index.shape, *(1,) * (array.ndim - 2)), axis=1)


def _canonical(values: jax.Array, site: Site) -> jax.Array:
    """`[l|1, b, t, *feature]`."""
    wanted = 2 + site.layered + len(site.axes)
    if values.ndim != wanted:
        axes = (*("l" if site.layered else ""), "b", "t", *site.axes)
        raise SelfxError(
            f"a recording of shape {list(values.shape)} at {site.name!r}",
            expected=f"a capture of it, [{', '.join(axes)}]",
        )
    return values if site.layered else values[None]


def _by_position(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same with `t` by real position instead of slot, and which positions are real `[b, t]`."""
    if mask.shape != values.shape[1:3]:
        raise SelfxError(
            f"a mask of shape {list(mask.shape)}",
            expected=f"that of the run that was recorded, {list(values.shape[1:3])}",
        )
    slots = jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, -1)
    wanted = jnp.arange(mask.shape[1])
    values = jax.vmap(gather_positions, in_axes=(0, None, None))(values, slots, wanted)
    return values, wanted < mask.sum(axis=1, keepdims=True)


def _part(part: jax.Array, site: Site) -> jax.Array:
    """bool `[1, b|1, 1, *feature]`."""
    rank = len(site.axes)
    if part.ndim == rank:
        return part[None, None, None]
    if part.ndim == rank + 1:
        return part[None, :, None]
    raise SelfxError(
        f"a part of shape {list(part.shape)} at {site.name!r}",
        expected=f"axes [{', '.join(site.axes)}], with a leading b if it differs from row to row",
        hint="an axis of 1 stands for all of it, such as [h, 1] for whole heads",
    )
