"""Whether a dictionary would fit better somewhere else: another site, layer or scale.

A wrong convention does not fail, it reconstructs badly. So the same dictionary is tried on a few
hundred tokens at each place that is as wide, and on activations multiplied by powers of 2.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from selfx.features.dictionaries.places import width_of
from selfx.features.dictionaries.sae import Sae, reconstruct
from selfx.models.config import Config
from selfx.models.decoder import Decoder, forward
from selfx.models.sites import sites_of
from selfx.models.tap import Array, At

SCALES = tuple(2.0**power for power in range(-8, 9))
TOKENS = 256
"""How many tokens are tried, at most."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How well a dictionary reconstructs one place, at one scale.

    Attributes:
      site: what it was given.
      layer: of which layer.
      scale: what it was multiplied by.
      fvu: the share of the variance that it did not explain.
    """

    site: str
    layer: int
    scale: float
    fvu: float


def fits(sae: Sae, model: Decoder, tokens: Array, mask: Array, first: int) -> list[Fit]:
    """How the dictionary does at its own place, first, and at others.

    Args:
      sae: the dictionary.
      model: the model.
      tokens: int `[b, t]`, a few texts.
      mask: bool `[b, t]`.
      first: the first position that counts.
    """
    pairs = _pairs(sae, model.config)
    layers = tuple(
        layer for layer in range(sae.layer - 1, sae.layer + 2) if 0 <= layer < model.config.n_layers
    )
    sites = sorted({site for pair in pairs for site in pair})
    capture = {site: At(layers=layers) for site in sites}
    seen = _seen(model, jnp.asarray(tokens), jnp.asarray(mask), capture)
    real = np.asarray(mask) & (np.cumsum(np.asarray(mask), axis=1) > first)
    rows = np.flatnonzero(real.reshape(-1))[:TOKENS]
    own = (sae.site, sae.target)
    numbers = dataclasses.replace(sae, site="", layer=0, out_site=None)  # one program for all
    found = []
    for source, target in pairs:
        for at, layer in enumerate(layers):
            x, y = (seen[s][at].reshape(real.size, -1)[rows] for s in (source, target))
            here = (source, target) == own and layer == sae.layer
            for scale in SCALES if here else (1.0,):
                found.append(Fit(target, layer, scale, float(_fvu(numbers, x, y, scale))))
    mine = (sae.target, sae.layer, 1.0)
    return sorted(found, key=lambda fit: ((fit.site, fit.layer, fit.scale) != mine, fit.fvu))


def _pairs(sae: Sae, config: Config) -> list[tuple[str, str]]:
    """Places as wide as what it reads and reconstructs: its own first."""
    wide = [
        site.name for site in sites_of(config).values() if site.layered and "s" not in site.axes
    ]
    own = (sae.site, sae.target)
    if sae.out_site is None:
        width = sae.w_enc.shape[0]
        pairs = [(name, name) for name in wide if width_of(name, config) == width]
    else:
        ends = ("mlp_out", "mlp_out_post", "attn_out", "attn_out_post")
        width = sae.w_dec.shape[1]
        pairs = [(sae.site, name) for name in ends if width_of(name, config) == width]
    return [own, *(pair for pair in pairs if pair != own)]


@jax.jit
def _seen(
    model: Decoder, tokens: jax.Array, mask: jax.Array, capture: dict[str, At]
) -> dict[str, jax.Array]:
    return forward(model, tokens, mask=mask, capture=capture).captures


@jax.jit
def _fvu(sae: Sae, x: jax.Array, y: jax.Array, scale: float) -> jax.Array:
    """The share of `y` `[n, d]` that is not explained from `x`, both multiplied by `scale`."""
    wrong = jnp.square(y - reconstruct(sae, x * scale) / scale).sum()
    return wrong / jnp.square(y - y.mean(axis=0)).sum()
