"""A dictionary put into the model: from its layer on, the model sees what the latents carry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import check_width
from selfx.features.dictionaries.sae import Sae, reconstruct
from selfx.interventions.edits import Edits
from selfx.models.config import Config
from selfx.models.sites import Site
from selfx.models.tap import Address, Array


@struct.dataclass
class Splice:
    """`x <- reconstruct(x)` at the dictionary's layer, from position `first` on.

    Attributes:
      sae: the dictionary.
      first: int32 scalar.
    """

    sae: Sae
    first: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, *feature]`; no other layer pays for it."""

        def through(x: jax.Array) -> jax.Array:
            flat = x.reshape(*x.shape[:2], -1)
            return reconstruct(self.sae, flat).reshape(x.shape).astype(x.dtype)

        y = jax.lax.cond(at.layer == self.sae.layer, through, lambda x: x, x)
        return jnp.where(_here(x, at, self.sae.layer, self.first), y, x)

    def check(self, site: Site, config: Config, batch: int, length: int) -> None:
        """Raises SelfxError where the dictionary is of another width or layer."""
        check_width(self.sae, config)


@struct.dataclass
class Put:
    """`x <- values` in one layer, slot by slot, from position `first` on.

    Attributes:
      values: `[b, t, *feature]`, or with axes of 1 that broadcast.
      layer: int32 scalar.
      first: int32 scalar.
    """

    values: jax.Array
    layer: jax.Array
    first: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, *feature]`."""
        return jnp.where(_here(x, at, self.layer, self.first), self.values.astype(x.dtype), x)


def splice(sae: Sae, *, first: int = 0) -> Edits:
    """An edit that replaces what the dictionary reads by what it reconstructs.

    Args:
      sae: from a site to itself.
      first: the position from which on; 1 leaves the first token, whose activations are often
        hundreds of times as long and were not in the training data, as it is.

    Raises:
      SelfxError: a transcoder, which reconstructs another site than it reads.
    """
    if sae.out_site is not None:
        raise SelfxError(
            f"a transcoder from {sae.site!r} to {sae.out_site!r}",
            expected="a dictionary of one site",
            hint="capture what it reads, decode that, and put it in with selfx.replay",
        )
    return Edits({sae.site: (Splice(sae, jnp.asarray(first, jnp.int32)),)})


def _here(x: jax.Array, at: Address, layer: Array | int, first: Array) -> jax.Array:
    """bool, broadcasting against `x`: the tokens of one layer from a position on."""
    here = (at.layer == layer) & (at.position >= jnp.maximum(first, 0))
    return here.reshape(*here.shape, *(1,) * (x.ndim - 2))
