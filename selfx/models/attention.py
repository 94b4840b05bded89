"""Grouped-query attention with every intermediate open to edits and captures."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp

from selfx.models.layers import soft_cap
from selfx.models.tap import Tap


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array,
    scale: jax.Array | float,
    cap: float | None,
    tap: Tap,
    fused: bool = False,
) -> jax.Array:
    """Values mixed by attention, `[b, t, h, e]`.

    The products and the softmax are in float32 whatever the inputs' dtype. What a token may not
    see gets no weight whatever an edit writes, and neither does what one scores at minus infinity.
    Where nothing is left (padding) all weights are 0, so that no NaN can reach a real token.

    Args:
      q: `[b, t, h, e]`, turned.
      k: `[b, k, e, s]`, turned; query heads `h` share `k` key heads in order.
      v: `[b, k, s, e]`.
      visible: bool `[b, t, s]`.
      scale: what the products are multiplied by.
      cap: the soft cap over scores, or None.
      tap: sees `attn_scores` (scaled and capped, before the mask) and `attn_probs`.
      fused: never lay out scores and weights, where nobody asks for them: `jax.nn`'s attention.
    """
    if fused and _can_fuse(cap, tap):
        return _fused(q, k, v, visible, scale)
    t = q.shape[1]
    queries = _by_group(q, k.shape[1])
    scores = jnp.matmul(queries, k, preferred_element_type=jnp.float32)
    scores = tap("attn_scores", soft_cap(_by_head(scores, t) * scale, cap))
    lowest = jnp.finfo(scores.dtype).min
    visible = visible[:, :, None, :]
    reached = visible & ~(scores <= lowest)
    probs = jax.nn.softmax(jnp.where(reached, scores, lowest), axis=-1)
    probs = tap("attn_probs", jnp.where(reached, probs, 0), within=visible).astype(v.dtype)
    return _by_head(_by_group(probs, v.shape[1]) @ v, t)


def _can_fuse(cap: float | None, tap: Tap) -> bool:
    """Whether fused attention computes the same; says so if it was asked for and cannot be had."""
    wanted = [site for site in ("attn_scores", "attn_probs") if tap.wants(site)]
    reason = f"{' and '.join(wanted)} are asked for" if wanted else ""
    reason = reason or ("the model caps its scores" if cap is not None else "")
    if reason:
        warnings.warn(f"attention runs step by step, not fused: {reason}", stacklevel=2)
    return not reason


def _fused(
    q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array, scale: jax.Array | float
) -> jax.Array:
    """The same through `jax.nn.dot_product_attention`, which has kernels on GPU."""
    seen = visible.any(axis=-1)[:, :, None, None]
    keys, values = k.transpose(0, 3, 1, 2), v.swapaxes(1, 2)
    queries = q * jnp.asarray(scale, q.dtype)  # the kernel's own scale must be static
    mixed = jax.nn.dot_product_attention(queries, keys, values, mask=visible[:, None], scale=1.0)
    return jnp.where(seen, mixed, 0)


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """`[b, t, h, n]` as `[b, k, h/k * t, n]`: a matrix for every key head, to multiply at once."""
    b, t, h, n = x.shape
    return x.swapaxes(1, 2).reshape(b, groups, h // groups * t, n)


def _by_head(x: jax.Array, t: int) -> jax.Array:
    """`[b, k, h/k * t, n]` as `[b, t, h, n]`."""
    b, _, _, n = x.shape
    return x.reshape(b, -1, t, n).swapaxes(1, 2)
