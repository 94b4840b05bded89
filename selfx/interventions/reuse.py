"""Runs that go on from the middle of another: what stands before stays as it was computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfx.models import cache as caches
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, forward
from selfx.models.tap import At


@jax.jit
def begin(
    model: Decoder, tokens: jax.Array, mask: jax.Array, past: Cache | None = None
) -> tuple[jax.Array, Cache]:
    """The likeliest next token `[b]` of texts `[b, t]`, and the keys and values of their runs.

    With `past`, the texts go on from what it holds.
    """
    if past is None:
        rows, width = tokens.shape
        past = caches.empty(model.config, rows, width, model.embed[...].dtype)
    last = past.next_position[:, None] + mask.sum(axis=1, dtype=jnp.int32)[:, None] - 1
    out = forward(model, tokens, mask=mask, cache=past, logits_at=last)
    assert out.cache is not None
    return out.logits[:, 0].argmax(axis=-1), out.cache


@jax.jit(static_argnames="room")
def before(cache: Cache, rows: jax.Array, start: jax.Array, *, room: int) -> Cache:
    """What each of `rows` `[n]` held before position `start` `[n]`, and `room` for new tokens."""
    slots = cache.position.shape[1]
    assert isinstance(cache.k, jax.Array)
    assert isinstance(cache.v, jax.Array)
    none, blank = (0, 0), (0, room)
    k = jnp.pad(cache.k[:, rows], (none, none, none, none, blank))
    v = jnp.pad(cache.v[:, rows], (none, none, none, blank, none))
    position = cache.position[rows]
    position = jnp.where(position < start[:, None], position, -1)
    position = jnp.pad(position, ((0, 0), (0, room)), constant_values=-1)
    return Cache(k, v, position, jnp.int32(slots))


@jax.jit(static_argnames="layers")
def choose(
    model: Decoder,
    past: Cache,
    tokens: jax.Array,
    mask: jax.Array,
    choices: jax.Array,
    *,
    layers: tuple[int, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """Logits `[b, n]` of the tokens `choices` `[n]` next after texts that go on from `past`, and
    the residuals `[b, l, d]` that leave `layers` at the texts' last tokens."""
    last = past.next_position[:, None] + mask.sum(axis=1, dtype=jnp.int32)[:, None] - 1
    capture = {"resid_post": At(last, layers)} if layers else {}
    out = forward(model, tokens, mask=mask, cache=past, logits_at=last, capture=capture)
    if not layers:
        states = jnp.zeros((len(tokens), 0, model.config.d_model), jnp.float32)
    else:
        states = out.captures["resid_post"][:, :, 0].swapaxes(0, 1).astype(jnp.float32)
    return out.logits[:, 0, choices], states
