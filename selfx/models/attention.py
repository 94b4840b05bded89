"""Grouped-query attention with every intermediate open to edits and captures."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from selfx.models.tap import Tap


def attend(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array, tap: Tap) -> jax.Array:
    """Values mixed by attention, `[b, t, h, e]`.

    The products and the softmax are in float32 whatever the inputs' dtype. What a token may not
    see gets no weight whatever an edit writes, and neither does what one scores at minus infinity.
    Where nothing is left (padding) all weights are 0, so that no NaN can reach a real token.

    Args:
      q: `[b, t, h, e]`, turned.
      k: `[b, k, e, s]`, turned; query heads `h` share `k` key heads in order.
      v: `[b, k, s, e]`.
      visible: bool `[b, t, s]`.
      tap: sees `attn_scores` and `attn_probs`.
    """
    b, t, h, e = q.shape
    queries = _by_group(q, k.shape[1])
    scores = jnp.matmul(queries, k, preferred_element_type=jnp.float32)
    scores = tap("attn_scores", _by_head(scores, t) / math.sqrt(e))
    lowest = jnp.finfo(scores.dtype).min
    visible = visible[:, :, None, :]
    reached = visible & ~(scores <= lowest)
    probs = jax.nn.softmax(jnp.where(reached, scores, lowest), axis=-1)
    probs = tap("attn_probs", jnp.where(reached, probs, 0), within=visible).astype(v.dtype)
    return _by_head(_by_group(probs, v.shape[1]) @ v, t)


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """`[b, t, h, n]` as `[b, k, h/k * t, n]`: a matrix for every key head, to multiply at once."""
    b, t, h, n = x.shape
    return x.swapaxes(1, 2).reshape(b, groups, h // groups * t, n)


def _by_head(x: jax.Array, t: int) -> jax.Array:
    """`[b, k, h/k * t, n]` as `[b, t, h, n]`."""
    b, _, _, n = x.shape
    return x.reshape(b, -1, t, n).swapaxes(1, 2)
