"""How a forward pass is touched: at every site, edits are applied in order, then it is recorded.

A `Tap` lives inside one trace of one layer and never crosses a jit boundary. What crosses it are
the edits, which are pytrees of arrays: contents never recompile, only structure does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.sites import Site, find

Array = jax.Array | np.ndarray
"""What an argument may be: an array of jax, traced or not, or of NumPy."""


@struct.dataclass
class Address:
    """Where in the run an edit is being asked: traced, so one program serves every place.

    Attributes:
      layer: int32 scalar, 0 at sites outside the layers.
      position: int32 `[b, t]`, the index among a row's real tokens, -1 at padding.
    """

    layer: jax.Array
    position: jax.Array


class Edit(Protocol):
    """A change to a site: any pytree with this call. Yours needs nothing else."""

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x`, of the same shape `[b, t, ...]` and dtype."""
        ...


@struct.dataclass
class At:
    """Which part of a site to keep in a capture.

    Attributes:
      positions: int32 `[b, p]` or `[p]`, or None for every slot of the text (padding included).
        A position that a row does not have yields zeros.
      layers: which layers, in the order wanted, or None for all. Static.
    """

    positions: Any = None
    layers: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)


Edits = Mapping[str, tuple[Edit, ...]]
Capture = Mapping[str, At]


def canonical_capture(capture: Iterable[str] | Mapping[str, At | None], config: Config) -> Capture:
    """`{site: At}` from a list of sites or a mapping, each checked against the model.

    Raises:
      SelfxError: an unknown site, or a layer that the model does not have.
    """
    if isinstance(capture, str):
        capture = (capture,)
    pairs = capture.items() if isinstance(capture, Mapping) else ((name, None) for name in capture)
    wanted = {find(name, config).name: _canonical(at or At()) for name, at in pairs}
    for name, at in wanted.items():
        layers = at.layers
        if layers is None:
            continue
        check_layers(layers, config, find(name).layered, name)
        if not layers or len(set(layers)) < len(layers):
            raise SelfxError(f"layers {layers} at {name!r}", expected="some, each once")
    return wanted


def _canonical(at: At) -> At:
    """The same place with positions as an array and layers as a tuple."""
    positions = at.positions
    if positions is not None:
        positions = jnp.atleast_1d(jnp.asarray(positions, jnp.int32))
    layers = at.layers
    if layers is not None:
        layers = tuple(np.atleast_1d(np.asarray(layers, int)).tolist())
    return At(positions, layers)


def check_layers(layers: Iterable[int], config: Config, layered: bool, site: str) -> None:
    """Raises SelfxError for a layer that the model does not have, or any at a site without."""
    for layer in layers:
        if not layered:
            check_outside_layers(find(site))
        if not 0 <= layer < config.n_layers:
            raise SelfxError(
                f"layer {layer} at site {site!r}",
                expected=f"a layer from 0 to {config.n_layers - 1}",
            )


def check_outside_layers(site: Site) -> None:
    """Raises SelfxError for naming a layer at a site that stands outside the layers."""
    if not site.layered:
        raise SelfxError(
            f"a layer at site {site.name!r}, which stands outside the layers",
            hint=f"leave out layers= at {site.name!r}",
        )


def check_edits(edits: Edits, config: Config, batch: int, length: int) -> None:
    """Lets every edit that has a `check` raise before the run, rather than be ignored in it."""
    for name, several in edits.items():
        site = find(name, config)
        if not isinstance(several, tuple | list):
            raise SelfxError(
                f"a {type(several).__name__} as the edits at {name!r}", expected="a tuple of edits"
            )
        for edit in several:
            check = getattr(edit, "check", None)
            if check is not None:
                check(site, config, batch, length)


class Tap:
    """Applies a site's edits and keeps what is to be captured, within one layer of one trace."""

    def __init__(self, edits: Edits, capture: Capture, at: Address):
        self.edits, self.capture, self.at = edits, capture, at
        self.seen: dict[str, jax.Array] = {}

    def __call__(self, site: str, x: jax.Array, within: jax.Array | None = None) -> jax.Array:
        """`x` `[b, t, ...]` as the rest of the model sees it; no edit writes outside `within`."""
        x = _rounded(x)
        for edit in self.edits.get(site, ()):
            x = edit(x, self.at)
        if within is not None and self.edits.get(site):
            x = jnp.where(within, x, 0)
        if site in self.capture:
            self.seen[site] = gather_positions(x, self.at.position, self.capture[site].positions)
        return x

    def wants(self, *sites: str) -> bool:
        """Whether any of these sites is edited or captured."""
        return any(site in self.edits or site in self.capture for site in sites)


def _rounded(x: jax.Array) -> jax.Array:
    """`x` as its dtype can hold it.

    A compiler may carry bfloat16 sums on in float32. The model would then use other numbers than a
    capture shows, and to patch them back would change the run.
    """
    kind = jnp.finfo(x.dtype)
    if kind.bits >= 32:
        return x
    return jax.lax.reduce_precision(x.astype(jnp.float32), kind.nexp, kind.nmant).astype(x.dtype)


def gather_positions(x: jax.Array, position: jax.Array, wanted: Any) -> jax.Array:
    """`x` `[b, t, ...]` at the real positions `wanted` `[b, p]` or `[p]`: `[b, p, ...]`."""
    if wanted is None:
        return x
    wanted = jnp.broadcast_to(wanted, (x.shape[0], jnp.shape(wanted)[-1]))
    hits = (position[:, None, :] == wanted[:, :, None]) & (wanted >= 0)[:, :, None]
    feature = (1,) * (x.ndim - 2)
    slots = hits.argmax(axis=2).reshape(*wanted.shape, *feature)
    found = hits.any(axis=2).reshape(*wanted.shape, *feature)
    return jnp.where(found, jnp.take_along_axis(x, slots, axis=1), 0)
