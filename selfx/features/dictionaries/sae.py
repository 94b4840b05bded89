"""A sparse dictionary of activations, in the one form that every published layout is brought to.

    f = rule(x @ w_enc + b_enc)          x [..., d]  ->  f [..., n]
    y = f @ w_dec + b_dec                f [..., n]  ->  y [..., d]

`x` and `y` are activations as the model has them: no scaling, no centring, nothing to do before or
after. Decoder rows have unit length, so `f` is in the units of the activation, and comparable
between dictionaries. What a layout does otherwise is folded into the weights when it is read
(`fold.py`), and `folds` says so in words. Two norms of the input cannot be folded; they are a
switch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.models.tap import Array

Rule = Literal["relu", "topk", "jumprelu", "gated", "groupmax"]
Norm = Literal["none", "layer", "constant"]

LAYER_EPS = 1e-5
"""What the `layer` norm adds to the standard deviation; the layout that has it fixes the number."""


@struct.dataclass
class Gate:
    """What decides, in a gated SAE, which latents are on: `x @ w + b > 0` (arXiv 2404.16014).

    Attributes:
      w: `[d, n]`.
      b: `[n]`.
    """

    w: Array
    b: Array


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a dictionary comes from, and what its files say of it; None where they are silent.

    Attributes:
      layout: the format that it was read from, such as `saelens`.
      path: the files.
      model: the model whose activations it was trained on.
      hook: the place, in the words of the files.
      l0: the mean number of latents on.
      bos: whether the texts began with a token that begins texts.
      context: their length in tokens.
      bare: whether it reads a norm's output before the norm's weight, as no site has it; then it
        is not in the canonical form until `selfx.features.dictionaries.fold.norm_weight`.
    """

    layout: str
    path: str = ""
    model: str | None = None
    hook: str | None = None
    l0: float | None = None
    bos: bool | None = None
    context: int | None = None
    bare: bool = False


@struct.dataclass
class Sae:
    """A sparse autoencoder, or a transcoder: the same from one site to another.

    Attributes:
      w_enc: `[d, n]`.
      b_enc: `[n]`.
      w_dec: `[n, d]`, rows of unit length; the width of the other site in a transcoder.
      b_dec: `[d]`, as `w_dec`.
      threshold: `[n]`, what a latent must exceed to be on, in `jumprelu`; else None.
      skip: `[d, d]`, an affine path around the latents, in some transcoders; else None.
      gate: in `gated`; else None.
      order: `[n]`, by which latents are weighed when the `k` largest are chosen, where that is not
        by their own value; else None.
      rule: how `f` follows from the sums: `relu`; `topk` (arXiv 2406.04093), the `k` largest;
        `jumprelu` (arXiv 2407.14435); `gated`; `groupmax`, the largest of each of `k` groups of
        neighbours. None of them lets a negative number through. Static.
      k: of `topk` and `groupmax`; 0 elsewhere. Static.
      norm: of the input, undone after decoding: `none`; `layer`, by mean and deviation; `constant`,
        to a length of `sqrt(d)`. Static.
      site: what it reads, a name in `selfx.models.sites`; heads, at `z`, side by side. Static.
      layer: the layer it reads. Static.
      out_site: what it reconstructs, of the same layer; None is what it reads. Static.
      folds: what was folded into the weights, each step in words. Static.
      origin: where it comes from; None for one of our own making. Static.
    """

    w_enc: Array
    b_enc: Array
    w_dec: Array
    b_dec: Array
    threshold: Array | None = None
    skip: Array | None = None
    gate: Gate | None = None
    order: Array | None = None
    rule: Rule = struct.field(pytree_node=False, default="relu")
    k: int = struct.field(pytree_node=False, default=0)
    norm: Norm = struct.field(pytree_node=False, default="none")
    site: str = struct.field(pytree_node=False, default="resid_post")
    layer: int = struct.field(pytree_node=False, default=0)
    out_site: str | None = struct.field(pytree_node=False, default=None)
    folds: tuple[str, ...] = struct.field(pytree_node=False, default=())
    origin: Origin | None = struct.field(pytree_node=False, default=None)

    @property
    def target(self) -> str:
        """The site that it reconstructs."""
        return self.out_site or self.site


def encode(sae: Sae, x: jax.Array) -> jax.Array:
    """float32 `[..., n]`: how strongly each latent is on, for activations `x` `[..., d]`."""
    normed, _, _ = _normed(sae, jnp.asarray(x, jnp.float32))
    pre = _dot(normed, sae.w_enc) + sae.b_enc
    f = jax.nn.relu(pre)
    match sae.rule:
        case "relu":
            return f
        case "topk":
            return largest(f, sae.k, sae.order)
        case "groupmax":
            return _largest_of_groups(f, sae.k, sae.order)
        case "jumprelu":
            return jnp.where(pre > _given(sae.threshold, "threshold", sae), f, 0.0)
        case "gated":
            gate = _given(sae.gate, "gate", sae)
            return jnp.where(_dot(normed, gate.w) + gate.b > 0, f, 0.0)
    raise SelfxError(f"an SAE of rule {sae.rule!r}", expected="a rule in Rule")


def decode(sae: Sae, f: jax.Array, x: jax.Array | None = None) -> jax.Array:
    """float32 `[..., d]`: the activation that latents `f` `[..., n]` stand for.

    Args:
      sae: of any rule.
      f: as `encode` returns it, or changed.
      x: what was encoded, `[..., d]`; needed where the input is normed or there is a skip.

    Raises:
      SelfxError: `x` is needed and not given.
    """
    y = _dot(jnp.asarray(f, jnp.float32), sae.w_dec) + sae.b_dec
    if sae.norm == "none" and sae.skip is None:
        return y
    if x is None:
        raise SelfxError(
            "latents without the activation that they were read from",
            expected="x, as this SAE "
            + ("norms its input" if sae.norm != "none" else "has a path around its latents"),
        )
    x = jnp.asarray(x, jnp.float32)
    _, scale, shift = _normed(sae, x)
    y = y * scale + shift
    return y if sae.skip is None else y + _dot(x, sae.skip)


def reconstruct(sae: Sae, x: jax.Array) -> jax.Array:
    """float32 `[..., d]`: `x` `[..., d]` through the latents and back."""
    return decode(sae, encode(sae, x), x)


def largest(f: jax.Array, k: int, order: Array | None = None) -> jax.Array:
    """`f` `[..., n]` with all but its `k` largest set to 0, by `f * order` if that is given."""
    weighed = f if order is None else f * order
    _, index = jax.lax.top_k(weighed, k)
    kept = jnp.take_along_axis(f, index, axis=-1)
    return jnp.put_along_axis(jnp.zeros_like(f), index, kept, axis=-1, inplace=False)


def _largest_of_groups(f: jax.Array, k: int, order: Array | None) -> jax.Array:
    """`f` `[..., n]` with all but the first largest of each of `k` equal groups set to 0."""
    shape = (*f.shape[:-1], k, f.shape[-1] // k)
    weighed = f if order is None else f * order
    first = jax.nn.one_hot(weighed.reshape(shape).argmax(axis=-1), shape[-1], dtype=bool)
    return jnp.where(first, f.reshape(shape), 0.0).reshape(f.shape)


def _normed(sae: Sae, x: jax.Array) -> tuple[jax.Array, jax.Array | float, jax.Array | float]:
    """`(normed, scale, shift)`: a decoded `y` is brought back by `y * scale + shift`."""
    match sae.norm:
        case "layer":  # what is added to the deviation is not undone, as in the layout that has it
            shift = x.mean(axis=-1, keepdims=True)
            scale = x.std(axis=-1, keepdims=True, ddof=1)
            return (x - shift) / (scale + LAYER_EPS), scale, shift
        case "constant":
            scale = jnp.linalg.norm(x, axis=-1, keepdims=True) / x.shape[-1] ** 0.5
            return x / jnp.where(scale > 0, scale, 1.0), scale, 0.0
        case "none":
            return x, 1.0, 0.0
    raise SelfxError(f"an input norm {sae.norm!r}", expected="a norm in Norm")


def _dot(x: jax.Array, w: Array) -> jax.Array:
    """In full float32: near a threshold, a product in fewer bits turns latents on and off."""
    w = jnp.asarray(w, jnp.float32)
    return jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST)


def _given(part: Any, name: str, sae: Sae) -> Any:
    if part is None:
        raise SelfxError(f"an SAE of rule {sae.rule!r} without a {name}", expected=f"a {name}")
    return part
