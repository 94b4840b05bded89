"""What the model's head reads: layer by layer (the logit lens), and from which component."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.models.decoder import Decoder, Output, check_text, forward, read_out
from selfx.models.layers import Adapter, Norm
from selfx.models.sites import find
from selfx.models.tap import Array, At, Edits


@struct.dataclass
class DirectLogits:
    """A logit, or a difference of two, as a sum over what wrote into the residual stream.

    `total = embeddings + attention over l + mlp over l + bias + rest`, up to rounding.

    Attributes:
      total: float32 `[b]`, the logit; before the cap, where a family caps its logits.
      embeddings: `[b]`.
      attention: `[b, l]`, what each layer's attention added.
      mlp: `[b, l]`, what each layer's MLP added.
      heads: `[b, l, h]`, what each head did of it; the output map's bias, if any, is the
        difference to `attention`. None if not asked for.
      bias: `[b]`, from the final norm's bias; 0 without one.
      rest: `[b]`, what edits of the residual stream itself put there; else rounding.
    """

    total: jax.Array
    embeddings: jax.Array
    attention: jax.Array
    mlp: jax.Array
    heads: jax.Array | None
    bias: jax.Array
    rest: jax.Array


def logit_lens(
    model: Decoder,
    tokens: Array,
    *,
    site: str = "resid_post",
    layers: Any = None,
    positions: Any = None,
    mask: Array | None = None,
    edits: Edits | None = None,
    lora: Mapping[str, Adapter] | None = None,
) -> jax.Array:
    """Float32 `[l, b, p, v]`: the logits that the head would read from each layer's residual.

    The logit lens (nostalgebraist 2020): final norm and unembedding on `resid_post`, or on another
    site of the residual's width. From the last layer's they are the model's own.

    Args:
      model: the weights.
      tokens: int `[b, t]`.
      site: a name in `selfx.models.sites`, of width `d`, in the layers.
      layers: static, a layer or several; None is all.
      positions: int `[p]` or `[b, p]`, counting real tokens, or None for every slot of the text.
      mask: bool `[b, t]`, True at real tokens.
      edits: as in `selfx.forward`.
      lora: as in `selfx.forward`.

    Raises:
      SelfxError: a site of another width, layers that are not there.
    """
    about = find(site)
    if about.axes != "d" or not about.layered:
        raise SelfxError(
            f"a logit lens on {site!r}", expected="a site in the layers of the residual's width"
        )
    if layers is not None:
        layers = tuple(np.atleast_1d(layers).tolist())
    capture = {site: At(positions, layers)}
    first = jnp.zeros((np.shape(tokens)[0], 1), jnp.int32)
    seen = _run(model, tokens, mask, edits, lora, capture, first).captures[site]
    return read_out(model, seen)


def direct_logits(
    model: Decoder,
    tokens: Array,
    answer: Any,
    other: Any = None,
    *,
    position: Any = None,
    split: bool = False,
    mask: Array | None = None,
    edits: Edits | None = None,
    lora: Mapping[str, Adapter] | None = None,
) -> DirectLogits:
    """How much of a logit each component wrote, with the final norm's scale held as it was.

    Direct logit attribution (Elhage et al. 2021; Wang et al. 2022, arXiv 2211.00593).

    Args:
      model: the weights.
      tokens: int `[b, t]`.
      answer: the token, or int `[b]`.
      other: subtract this one's logit, or int `[b]`; None is nothing.
      position: where it is predicted, or int `[b]`; None is each row's last token.
      split: also for each head by itself.
      mask: bool `[b, t]`, True at real tokens.
      edits: as in `selfx.forward`.
      lora: as in `selfx.forward`.

    Raises:
      SelfxError: tokens or positions that are not there; `split` where attention's output is
        normed, or adapted, before it is added: what a head adds is then no sum over heads.
    """
    check_text(tokens, mask)
    if split and (model.config.post_norm or "o" in (lora or {})):
        raise SelfxError(
            "split=True where heads are not simply added to the residual",
            expected="a model without a norm after attention, and no adapter beside 'o'",
            hint="split=False, or patch heads at 'z' with selfx.sweep(split=True)",
        )
    rows = len(tokens)
    vocabulary, width = model.config.vocab_size, np.shape(tokens)[1]
    ids = _each(answer, rows, vocabulary, "token")
    less = None if other is None else _each(other, rows, vocabulary, "token")
    real = jnp.ones(np.shape(tokens), bool) if mask is None else jnp.asarray(mask, bool)
    last = real.sum(axis=1, dtype=jnp.int32) - 1
    place = last if position is None else _each(position, rows, width, "position")
    return _split_up(model, tokens, real, place, ids, less, edits, lora, split=split)


@functools.partial(jax.jit, static_argnames="split")
def _split_up(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array,
    place: jax.Array,
    answer: jax.Array,
    other: jax.Array | None,
    edits: Edits | None,
    lora: Mapping[str, Adapter] | None,
    *,
    split: bool,
) -> DirectLogits:
    sites = ("embeddings", "attn_out_post", "mlp_out_post", "resid_post", "z")[: 4 + split]
    capture = {site: At(place[:, None]) for site in sites}
    seen = forward(
        model, tokens, mask=mask, edits=edits, lora=lora, capture=capture, logits_at=place[:, None]
    ).captures
    seen = {site: x.astype(jnp.float32) for site, x in seen.items()}
    last = seen["resid_post"][-1, :, 0]
    direction = _unembedding(model, answer)
    if other is not None:
        direction = direction - _unembedding(model, other)
    weights = _through_norm(model.final_norm, model, last, direction)
    heads = None
    if split:
        shape = (model.config.n_layers, model.config.n_heads, model.config.d_head, -1)
        maps = model.blocks.o.w[...].astype(jnp.float32).reshape(shape)
        heads = _product("lbhe,lhed,bd->blh", seen["z"][:, :, 0], maps, weights)
    attention, mlp = (
        _product("lbd,bd->bl", seen[site][:, :, 0], weights)
        for site in ("attn_out_post", "mlp_out_post")
    )
    offset = model.final_norm.b
    bias = jnp.zeros(len(tokens)) if offset is None else direction @ offset[...].astype(jnp.float32)
    embeddings, whole = (_product("bd,bd->b", x, weights) for x in (seen["embeddings"][:, 0], last))
    rest = whole - embeddings - attention.sum(axis=1) - mlp.sum(axis=1)
    return DirectLogits(whole + bias, embeddings, attention, mlp, heads, bias, rest)


def _through_norm(norm: Norm, model: Decoder, x: jax.Array, direction: jax.Array) -> jax.Array:
    """`[b, d]`: what each coordinate of a part of `x` is worth in `direction`, at the scale of `x`.

    The final norm with its divisor taken as a constant is linear; this is `direction` through its
    transpose.
    """
    gain = norm.w[...].astype(jnp.float32) + (model.config.norm == "rms_plus_one")
    centred = norm.b is not None
    if centred:
        x = x - x.mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + model.config.norm_eps)
    worth = direction * gain * scale
    return worth - worth.mean(axis=-1, keepdims=True) if centred else worth


def _unembedding(model: Decoder, ids: jax.Array) -> jax.Array:
    """float32 `[b, d]`: the direction of each token's logit."""
    if model.unembed is None:
        return model.embed[...][ids].astype(jnp.float32)
    return model.unembed.w[...][:, ids].T.astype(jnp.float32)


def _product(axes: str, *arrays: jax.Array) -> jax.Array:
    return jnp.einsum(axes, *arrays, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _run(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array | None,
    edits: Edits | None,
    lora: Mapping[str, Adapter] | None,
    capture: Mapping[str, At],
    logits_at: jax.Array,
) -> Output:
    return forward(
        model, tokens, mask=mask, edits=edits, lora=lora, capture=capture, logits_at=logits_at
    )


def _each(numbers: Any, rows: int, count: int, what: str) -> jax.Array:
    """int32 `[b]`."""
    if not isinstance(numbers, jax.core.Tracer):
        wrong = [n for n in np.ravel(np.asarray(numbers)).tolist() if not 0 <= n < count]
        if wrong:
            raise SelfxError(f"{what} {wrong[0]}", expected=f"a {what} from 0 to {count - 1}")
    if jnp.shape(jnp.asarray(numbers)) not in ((), (rows,)):
        raise SelfxError(f"{what}s of shape {list(np.shape(numbers))}", expected=f"1 or [{rows}]")
    return jnp.broadcast_to(jnp.asarray(numbers, jnp.int32), (rows,))
