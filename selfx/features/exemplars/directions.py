"""What is read from a model at one place: a number for every feature and token.

A feature may be an SAE's latent, a neuron, an arbitrary vector, or a difference of activations.
Anything serves that has `site`, `layer`, `count` and a call `x [..., d] -> f [..., n]`, and is a
pytree; here are the two kinds that cover most:

    Features    f = relu(x @ directions.T + bias), 0 where that is not above the threshold
    Latents     some latents of an SAE whose rule weighs all of them against each other
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from selfx.errors import SelfxError
from selfx.features.dictionaries.sae import Sae, encode
from selfx.models.config import Config
from selfx.models.decoder import Decoder, forward
from selfx.models.sites import find
from selfx.models.tap import Array, At


class Reader(Protocol):
    """Features of one place: any pytree with these."""

    @property
    def site(self) -> str:
        """What they read, a name in `selfx.models.sites`."""
        ...

    @property
    def layer(self) -> int:
        """The layer that they read."""
        ...

    @property
    def count(self) -> int:
        """`n`, how many there are."""
        ...

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 `[..., n]`, never negative, for activations `[..., d]`."""
        ...


@struct.dataclass
class Features:
    """Directions, each read by itself.

    Attributes:
      directions: float32 `[n, d]`.
      bias: float32 `[n]`.
      threshold: float32 `[n]`, what a sum must exceed to count, or None.
      site: what they read, a name in `selfx.models.sites`; heads, at `z`, side by side. Static.
      layer: the layer they read. Static.
    """

    directions: jax.Array
    bias: jax.Array
    threshold: jax.Array | None = None
    site: str = struct.field(pytree_node=False, default="resid_post")
    layer: int = struct.field(pytree_node=False, default=0)

    @property
    def count(self) -> int:
        """`n`, how many there are."""
        return self.directions.shape[0]

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 `[..., n]`: how strongly each is on, for activations `[..., d]`."""
        exact = jax.lax.Precision.HIGHEST
        x = jnp.asarray(x, jnp.float32)
        sums = jnp.matmul(x, self.directions.T, precision=exact) + self.bias
        on = jax.nn.relu(sums)
        return on if self.threshold is None else jnp.where(sums > self.threshold, on, 0.0)


@struct.dataclass
class Latents:
    """Some latents of an SAE that decides between all of them.

    Attributes:
      sae: the dictionary.
      chosen: int32 `[n]`, which of its latents.
    """

    sae: Sae
    chosen: jax.Array

    @property
    def site(self) -> str:
        """What the SAE reads."""
        return self.sae.site

    @property
    def layer(self) -> int:
        """The layer that the SAE reads."""
        return self.sae.layer

    @property
    def count(self) -> int:
        """`n`, how many are chosen."""
        return self.chosen.shape[0]

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 `[..., n]`: how strongly each is on, for activations `[..., d]`."""
        return encode(self.sae, x)[..., self.chosen]


def along(
    vectors: Array, *, site: str = "resid_post", layer: int, centre: Array | None = None
) -> Features:
    """Features that measure how far an activation goes along each vector.

    Args:
      vectors: `[n, d]`: arbitrary vectors, activations, or differences of two; their length does
        not matter.
      site: what they read.
      layer: the layer they read.
      centre: `[d]`, where measuring starts, such as the mean activation; None is 0.

    Raises:
      SelfxError: a vector of length 0, or with a number that is not finite.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2:
        raise SelfxError(f"vectors of shape {list(vectors.shape)}", expected="[n, d]")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(wrong):
        raise SelfxError(
            f"vector {wrong[0]} has length {lengths[wrong[0], 0]}",
            expected="finite numbers, not all of them 0",
        )
    unit = vectors / lengths
    start = np.zeros(unit.shape[1], np.float32) if centre is None else np.asarray(centre)
    bias = -(unit @ start.astype(np.float32))
    return Features(jnp.asarray(unit), jnp.asarray(bias), site=find(site).name, layer=layer)


def neurons(config: Config, layer: int, chosen: Sequence[int]) -> Features:
    """Some of a layer's MLP neurons: the positive part of what the down map reads.

    Raises:
      SelfxError: a neuron that the layer does not have.
    """
    wrong = [index for index in chosen if not 0 <= index < config.d_ff]
    if wrong:
        raise SelfxError(f"neuron {wrong[0]}", expected=f"one from 0 to {config.d_ff - 1}")
    one_hot = jax.nn.one_hot(jnp.asarray(chosen), config.d_ff)
    return Features(one_hot, jnp.zeros(len(chosen)), site="mlp_act", layer=layer)


def of_sae(sae: Sae, chosen: Sequence[int] | None = None) -> Features | Latents:
    """Latents of an SAE, all or some; each by itself where its rule allows that.

    Raises:
      SelfxError: a latent that the SAE does not have.
    """
    count = sae.b_enc.shape[0]
    index = np.arange(count) if chosen is None else np.asarray(chosen, np.int32)
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise SelfxError(f"latent {wrong[0]}", expected=f"one from 0 to {count - 1}")
    if sae.rule not in ("relu", "jumprelu") or sae.norm != "none":
        return Latents(sae, jnp.asarray(index, jnp.int32))
    threshold = None
    if sae.rule == "jumprelu" and sae.threshold is not None:
        threshold = jnp.asarray(sae.threshold)[index]
    directions = jnp.asarray(sae.w_enc, jnp.float32)[:, index].T
    return Features(directions, jnp.asarray(sae.b_enc)[index], threshold, sae.site, sae.layer)


def read(model: Decoder, features: Reader, tokens: Array, mask: Array | None = None) -> jax.Array:
    """float32 `[b, t, n]`: how strongly each feature is on at each token; 0 at padding.

    Args:
      model: the weights; `first_layers(model, features.layer + 1)` does as well, in less time.
      features: what to read.
      tokens: int `[b, t]`.
      mask: bool `[b, t]`, True at real tokens.
    """
    capture = {features.site: At(layers=(features.layer,))}
    first = jnp.zeros((tokens.shape[0], 1), jnp.int32)
    seen = forward(model, tokens, mask=mask, capture=capture, logits_at=first).captures
    x = seen[features.site][0]
    f = features(x.reshape(*x.shape[:2], -1))
    return f if mask is None else jnp.where(mask[..., None], f, 0.0)


def first_layers(model: Decoder, count: int) -> Decoder:
    """The model cut off after `count` layers: it takes less time, and their sites are the same."""
    if count >= model.config.n_layers:
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.blocks = jax.tree.map(lambda weights: weights[:count], model.blocks)
    copy.config = dataclasses.replace(model.config, n_layers=count)
    return copy


def check_reader(features: Reader, config: Config) -> None:
    """Raises SelfxError for a place that the model does not have, or directions that do not fit."""
    site = find(features.site, config)
    if not site.layered or "s" in site.axes:
        raise SelfxError(
            f"features of {features.site!r}", expected="a site in the layers, of a fixed width"
        )
    if not 0 <= features.layer < config.n_layers:
        raise SelfxError(
            f"features of layer {features.layer}",
            expected=f"a layer from 0 to {config.n_layers - 1}",
        )
    width = int(np.prod(site.feature_shape(config)))
    given = _width(features)
    if given not in (None, width):
        raise SelfxError(
            f"features that read {given} numbers at {features.site!r}",
            expected=f"{width}, the width of the model there",
            hint="check that features and model belong together",
        )


def _width(features: Any) -> int | None:
    """`d`, as far as it can be known of one's own features."""
    if isinstance(features, Latents):
        return features.sae.w_enc.shape[0]
    return features.directions.shape[1] if isinstance(features, Features) else None
