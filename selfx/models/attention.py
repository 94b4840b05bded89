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
      k: `[b, s, k, e]`, turned; query heads `h` share `k` key heads in order.
      v: `[b, s, k, e]`.
      visible: bool `[b, t, s]`.
      tap: sees `attn_scores` and `attn_probs`.
    """
    b, t, h, e = q.shape
    groups = k.shape[2]
    grouped = q.reshape(b, t, groups, h // groups, e)
    scores = jnp.einsum("btkge,bske->btkgs", grouped, k, preferred_element_type=jnp.float32)
    scores = tap("attn_scores", scores.reshape(b, t, h, -1) / math.sqrt(e))
    lowest = jnp.finfo(scores.dtype).min
    visible = visible[:, :, None, :]
    reached = visible & ~(scores <= lowest)
    probs = jax.nn.softmax(jnp.where(reached, scores, lowest), axis=-1)
    probs = tap("attn_probs", jnp.where(reached, probs, 0), within=visible).astype(v.dtype)
    mixed = jnp.einsum("btkgs,bske->btkge", probs.reshape(b, t, groups, h // groups, -1), v)
    return mixed.reshape(b, t, h, e)
