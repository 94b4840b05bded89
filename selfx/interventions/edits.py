"""The edit behind patch, ablate, steer and inject: `x <- keep * x + value` at addressed places.

Everything in it is data: which layers, which positions, which heads, which operation, which vector,
a different set for every row of a batch. One compiled program serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.sites import Site
from selfx.models.tap import Address, Edit, check_layers

EVERY = -2
"""The layer, or the position, that stands for all of them. Padding is -1 and is never changed."""


@struct.dataclass
class Affine:
    """`x <- keep * x + value` in `n` slots, applied in order, each where its address matches.

    A place that no slot addresses passes through untouched, to the bit.

    Attributes:
      layers: int32 `[b|1, n, m]`, up to `m` layers that a slot acts in: -1 is none, or `EVERY`.
      positions: int32 `[b|1, n]`, the position it acts at: -1 is none, or `EVERY`.
      part: bool `[b|1, n, *feature]`, which heads or neurons; sizes of 1 broadcast.
      keep: `[b|1, n]`, 0 to replace, 1 to add.
      value: `[b|1, n, l|1, *feature]`; one per layer of the model, or one for all of them.
    """

    layers: jax.Array
    positions: jax.Array
    part: jax.Array
    keep: jax.Array
    value: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, *feature]`."""
        here = ((self.layers == at.layer) | (self.layers == EVERY)).any(axis=-1)
        index = at.layer if self.value.shape[2] > 1 else 0
        value = jax.lax.dynamic_index_in_dim(self.value, index, 2, keepdims=False)
        for slot in range(self.positions.shape[1]):
            wanted = self.positions[:, slot, None]
            hit = (at.position == wanted) | (wanted == EVERY)
            hit = hit & (at.position >= 0) & here[:, slot, None]
            changed = _affine(x, self.keep[:, slot], value[:, slot])
            x = jnp.where(_expand(hit, x) & self.part[:, slot, None], changed, x)
        return x

    def check(self, site: Site, config: Config, batch: int, length: int) -> None:
        """Raises SelfxError where shapes or, if they are known now, contents do not fit the run.

        Args:
          site: where the edit is to act.
          config: of the model that is about to run.
          batch: its rows.
          length: how many tokens a row can hold, cache included.
        """
        _check_shape(self.value, self.part, site, config, length)
        rows = {leaf.shape[0] for leaf in jax.tree.leaves(self)} - {1, batch}
        if rows:
            raise SelfxError(
                f"an edit of {rows.pop()} rows at {site.name!r}", expected=f"1 row or {batch}"
            )
        if not isinstance(self.layers, jax.core.Tracer):
            chosen = np.unique(np.asarray(self.layers))
            check_layers(chosen[chosen >= 0].tolist(), config, site.layered, site.name)
        if not isinstance(self.positions, jax.core.Tracer):
            last = int(np.asarray(self.positions).max(initial=-1))
            if last >= length:
                raise SelfxError(
                    f"position {last} at {site.name!r}",
                    expected=f"a position from 0 to {length - 1}",
                )


class Edits(Mapping[str, tuple[Edit, ...]]):
    """`{site: (edit, ...)}` as a pytree; `a | b` applies `a`, then `b`."""

    def __init__(self, by_site: Mapping[str, tuple[Edit, ...]] | None = None):
        self._by_site = {site: tuple(edits) for site, edits in (by_site or {}).items()}

    def __getitem__(self, site: str) -> tuple[Edit, ...]:
        return self._by_site[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_site)

    def __len__(self) -> int:
        return len(self._by_site)

    def __or__(self, other: Mapping[str, tuple[Edit, ...]]) -> Edits:
        sites = sorted({*self, *other})
        return Edits({site: (*self.get(site, ()), *other.get(site, ())) for site in sites})

    def __repr__(self) -> str:
        return f"Edits({self._by_site})"


def _flatten(edits: Edits) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    sites = tuple(sorted(edits))
    return [(jax.tree_util.DictKey(site), edits[site]) for site in sites], sites


jax.tree_util.register_pytree_with_keys(
    Edits, _flatten, lambda sites, edits: Edits(dict(zip(sites, edits, strict=True)))
)


def _affine(x: jax.Array, keep: jax.Array, value: jax.Array) -> jax.Array:
    """`keep * x + value`; a `keep` of 0 forgets `x` even where it is infinite or not a number."""
    keep = keep.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    kept = jnp.where(keep == 0, 0, keep * x)
    return kept + value[:, None].astype(x.dtype)


def _expand(mask: jax.Array, x: jax.Array) -> jax.Array:
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def _check_shape(
    value: jax.Array, part: jax.Array, site: Site, config: Config, length: int
) -> None:
    layered = config.n_layers if site.layered else 1
    wanted = site.feature_shape(config)
    for name, shape in (("value", value.shape[3:]), ("part", part.shape[2:])):
        if len(shape) != len(wanted) or not site.broadcasts(shape, config):
            raise SelfxError(
                f"a {name} of shape {list(shape)} at {site.name!r}",
                expected=f"{site.describe_shape(config)}, axes of 1 broadcasting",
            )
        if "s" in site.axes and shape[-1] not in (1, length):
            raise SelfxError(
                f"a {name} for {shape[-1]} source tokens at {site.name!r}",
                expected=f"1 or {length}, as many as the run holds, cache and padding included",
            )
    if value.shape[2] not in (1, layered):
        raise SelfxError(
            f"values for {value.shape[2]} layers at {site.name!r}", expected=f"1 or {layered}"
        )
