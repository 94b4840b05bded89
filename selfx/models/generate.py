"""Greedy and sampled continuation in one compiled loop, edits and adapters active throughout."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.models import cache as caches
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, Output, check_length, check_text, forward, with_layers
from selfx.models.layers import Adapter
from selfx.models.stack import Apart
from selfx.models.tap import Array, Edits, check_edits


@struct.dataclass
class Generated:
    """A continuation of every row.

    Attributes:
      tokens: int32 `[b, n]`; after a row's end token, -1.
      lengths: int32 `[b]`, tokens before the end token.
    """

    tokens: jax.Array
    lengths: jax.Array


@struct.dataclass
class _State:
    """What the loop carries; `token` `[b]` is the last one written, -1 in rows that have ended."""

    step: jax.Array
    token: jax.Array
    ended: jax.Array
    tokens: jax.Array
    cache: Cache | None
    key: jax.Array


def generate(
    model: Decoder,
    tokens: Array,
    *,
    max_new_tokens: int,
    mask: Array | None = None,
    edits: Edits | None = None,
    lora: Mapping[str, Adapter] | None = None,
    end_ids: Sequence[int] = (),
    temperature: float | jax.Array = 0.0,
    top_p: float | jax.Array = 1.0,
    key: jax.Array | None = None,
    layers: Apart | None = None,
) -> Generated:
    """Continues every row until its end token or the limit; stops when all rows have ended.

    Args:
      model: the weights.
      tokens: int `[b, t]`, padded on either side.
      max_new_tokens: the limit, at least 1.
      mask: bool `[b, t]`, True at real tokens.
      edits: as in `forward`; a position past the text is met when it is generated.
      lora: as in `forward`.
      end_ids: tokens that end a row.
      temperature: 0 takes the likeliest token; else the logits are divided by it and sampled.
      top_p: sample among the fewest tokens that hold this much probability, at least one.
      key: a random key, needed to sample.
      layers: `selfx.apart(model)`, to write tokens faster on CPU for twice the memory.

    Raises:
      SelfxError: no room to generate, or a temperature without a key.
    """
    if max_new_tokens < 1:
        raise SelfxError(f"max_new_tokens={max_new_tokens}", expected="at least 1")
    sampled = not isinstance(temperature, int | float) or temperature > 0
    if sampled and key is None:
        raise SelfxError("a temperature without a random key", hint="key=jax.random.key(0)")
    check_text(tokens, mask)
    check_length(model.config, tokens, mask, max_new_tokens - 1)
    check_edits(edits or {}, model.config, tokens.shape[0], tokens.shape[1] + max_new_tokens - 1)
    return _generate(
        model,
        tokens,
        jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool),
        edits,
        lora,
        jnp.asarray(list(end_ids) or [-1], jnp.int32),
        jnp.float32(temperature),
        jnp.float32(top_p),
        jax.random.key(0) if key is None else key,
        layers,
        max_new_tokens=max_new_tokens,
        sampled=sampled,
    )


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "sampled"))
def _generate(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array,
    edits: Edits | None,
    lora: Mapping[str, Adapter] | None,
    end_ids: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    key: jax.Array,
    layers: Apart | None,
    *,
    max_new_tokens: int,
    sampled: bool,
) -> Generated:
    rows, width = tokens.shape
    run = functools.partial(forward, edits=edits, lora=lora)
    writer = model if layers is None else with_layers(model, layers)

    def choose(logits: jax.Array, key: jax.Array) -> jax.Array:
        if not sampled:
            return logits.argmax(axis=-1).astype(jnp.int32)
        return _sample(logits, temperature, top_p, key)

    def write(state: _State, logits: jax.Array, cache: Cache | None) -> _State:
        """The state with one more token in every row that has not ended."""
        key, now = jax.random.split(state.key)
        token = choose(logits[:, 0], now)
        ended = state.ended | jnp.isin(token, end_ids)
        token = jnp.where(ended, -1, token)
        tokens = state.tokens.at[:, state.step].set(token)
        return _State(state.step + 1, token, ended, tokens, cache, key)

    def advance(state: _State) -> _State:
        real = ~state.ended[:, None]
        out = run(writer, jnp.maximum(state.token, 0)[:, None], mask=real, cache=state.cache)
        return write(state, out.logits, out.cache)

    def unfinished(state: _State) -> jax.Array:
        return (state.step < max_new_tokens) & ~state.ended.all()

    out = prefill(run, model, tokens, mask, width + max_new_tokens - 1)
    blank = jnp.full((rows, max_new_tokens), -1, jnp.int32)
    assert out.cache is not None
    cache = out.cache if layers is None else caches.apart(out.cache, model.config.n_layers)
    start = _State(jnp.int32(0), blank[:, 0], jnp.zeros(rows, bool), blank, cache, key)
    start = write(start, out.logits, cache)
    written = jax.lax.while_loop(unfinished, advance, start).tokens
    return Generated(written, (written >= 0).sum(axis=1, dtype=jnp.int32))


def prefill(run: Any, model: Decoder, tokens: jax.Array, mask: jax.Array, slots: int) -> Output:
    """The prompts' cache with `slots` slots, and logits `[b, 1, v]` after each last real token."""
    cache = caches.empty(model.config, tokens.shape[0], slots, model.embed[...].dtype)
    last = mask.sum(axis=1, dtype=jnp.int32)[:, None] - 1
    return run(model, tokens, mask=mask, cache=cache, logits_at=last)


def _sample(
    logits: jax.Array, temperature: jax.Array, top_p: jax.Array, key: jax.Array
) -> jax.Array:
    """int32 `[b]`: a token drawn from the softmax, the tail beyond `top_p` cut off."""
    logits = logits / jnp.maximum(temperature, 1e-6)
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1) - jax.nn.softmax(ordered)
    kept = (before < top_p).at[:, 0].set(True)
    lowest = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
    drawn = jax.random.categorical(key, jnp.where(logits >= lowest, logits, -jnp.inf))
    greedy = logits.argmax(axis=-1)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)
