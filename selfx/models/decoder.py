"""The decoder: parameters as one frozen tree, and one scan over its stacked layers.

A `Decoder` is a pytree of arrays (a Flax NNX module used as data, never mutated). `forward` is a
pure function of it: jit, vmap, grad, pmap and sharding apply to it as to any function of arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from selfx.errors import SelfxError
from selfx.models.block import Around, Block, run_block
from selfx.models.cache import Cache, write
from selfx.models.config import Config
from selfx.models.differing import Differing
from selfx.models.layers import LINEAR, Adapter, Linear, Norm, soft_cap
from selfx.models.sites import find
from selfx.models.stack import Apart, over_layers, split
from selfx.models.tap import (
    Address,
    Array,
    At,
    Capture,
    Edits,
    Tap,
    canonical_capture,
    check_edits,
    gather_positions,
)


class Decoder(nnx.Module):
    """Weights of a whole model; random as made, real once `selfx.weights` has filled it."""

    def __init__(self, config: Config, key: jax.Array, dtype: Any = jnp.float32):
        embed_key, place_key, unembed_key, blocks_key = jax.random.split(key, 4)
        shape = (config.vocab_size, config.d_model)
        self.config = config
        self.embed = nnx.Param(jax.random.normal(embed_key, shape, dtype))
        places = (config.max_positions, config.d_model)
        self.places = (
            nnx.Param(jax.random.normal(place_key, places, dtype))
            if config.learned_positions
            else None
        )
        self.blocks = jax.vmap(lambda k: Block(config, k, dtype))(
            jax.random.split(blocks_key, config.n_layers)
        )
        self.final_norm = Norm(config.d_model, config, dtype)
        self.unembed = (
            None
            if config.tied
            else Linear(config.d_model, config.vocab_size, False, unembed_key, dtype)
        )


@struct.dataclass
class Output:
    """What a forward pass returns.

    Attributes:
      logits: float32 `[b, t, v]`, or `[b, p, v]` if asked for at positions.
      captures: `{site: [l, b, t, ...]}` (`[b, t, ...]` for sites outside the layers).
      cache: the cache given, with this text added, or None.
    """

    logits: jax.Array
    captures: dict[str, jax.Array]
    cache: Cache | None = None


def forward(
    model: Decoder,
    tokens: Array,
    *,
    mask: Array | None = None,
    edits: Edits | None = None,
    capture: Iterable[str] | Mapping[str, At | None] = (),
    lora: Mapping[str, Adapter] | None = None,
    logits_at: Array | None = None,
    cache: Cache | None = None,
    remat: bool = False,
    fused: bool = False,
) -> Output:
    """Runs the model: logits, what was captured, and the cache with this text added.

    Args:
      model: the weights.
      tokens: int `[b, t]`.
      mask: bool `[b, t]`, True at real tokens; padding may stand anywhere and moves nothing.
      edits: `{site: (edit, ...)}`, as `selfx.patch` and its kin return, or your own.
      capture: sites to return, or `{site: At(positions, layers)}` for a part of them.
      lora: `{map: adapter}` for the maps in `MAPS`, leaves stacked by layer.
      logits_at: int `[b, p]`: compute logits at these positions only.
      cache: continue from it instead of from nothing.
      remat: keep nothing of a layer for the backward pass but its input, instead of what its
        linear maps gave. (What lies between the maps is always computed again: that takes less
        time than a first touch of the memory to keep it in.)
      fused: let attention run in one kernel that never lays out its scores; where an edit or a
        capture asks for scores or weights it runs step by step, and a warning says so.

    Raises:
      SelfxError: a site, layer or map that the model does not have; shapes that do not fit; a
        cache without room for the text.
    """
    config = model.config
    check_text(tokens, mask, cache)
    edits = dict(edits or {})
    wanted = canonical_capture(capture, config)
    length = tokens.shape[1] if cache is None else cache.position.shape[1]
    check_edits(edits, config, tokens.shape[0], length)
    check_length(config, tokens, mask)
    _check_maps(lora, config)
    mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool)
    position = _positions(mask, cache)
    tap = Tap(edits, wanted, Address(jnp.int32(0), position))
    x = tap("embeddings", _embed(model, tokens, position))
    x, layered, cache = _layers(model, x, position, edits, wanted, lora, cache, remat, fused)
    if logits_at is not None and not tap.wants("final_norm", "logits"):
        x = gather_positions(x, position, logits_at)
        logits_at = None
    x = tap("final_norm", model.final_norm(x, config))
    logits = tap("logits", _unembed(model, x))
    logits = gather_positions(logits, position, logits_at)
    return Output(logits, {**tap.seen, **layered}, cache)


def read_out(model: Decoder, residual: jax.Array) -> jax.Array:
    """Float32 logits `[..., v]` that the model's head reads from a residual `[..., d]`."""
    return _unembed(model, model.final_norm(residual, model.config))


@jax.jit
def apart(model: Decoder) -> Apart:
    """A copy of the layers, each in arrays of its own, for `generate`; see `selfx.models.stack`."""
    return split(model.blocks, model.config.n_layers)


def with_layers(model: Decoder, layers: Apart) -> Decoder:
    """The model with its layers as `apart` gave them."""
    copy = nnx.merge(*nnx.split(model))
    copy.blocks = nnx.data(layers)  # type: ignore[assignment]
    return copy


def check_text(tokens: Array, mask: Array | None, cache: Cache | None = None) -> None:
    """Raises SelfxError where tokens, mask and cache do not fit together."""
    if jnp.ndim(tokens) != 2:
        raise SelfxError(f"tokens of shape {list(jnp.shape(tokens))}", expected="[b, t]")
    if mask is not None and jnp.shape(mask) != jnp.shape(tokens):
        raise SelfxError(
            f"a mask of shape {list(jnp.shape(mask))}",
            expected=f"that of the tokens, {list(jnp.shape(tokens))}",
        )
    if cache is None:
        return
    rows, slots = cache.position.shape
    filled = 0 if isinstance(cache.filled, jax.core.Tracer) else int(cache.filled)
    if rows != tokens.shape[0] or filled + tokens.shape[1] > slots:
        raise SelfxError(
            f"tokens of shape {list(tokens.shape)} after a cache of {rows} rows, {filled} of "
            f"{slots} slots filled",
            expected="as many rows, and room for the text",
        )


def check_length(config: Config, tokens: Array, mask: Array | None, more: int = 0) -> None:
    """Raises SelfxError for a text, `more` tokens added, past the last position that was learned.

    Of a traced mask nothing is known yet; there the embeddings past the last position are NaN.
    """
    if not config.learned_positions or isinstance(mask, jax.core.Tracer):
        return
    longest = tokens.shape[1] if mask is None else int(np.asarray(mask).sum(axis=1).max(initial=0))
    if longest + more > config.max_positions:
        raise SelfxError(
            f"a text of {longest + more} tokens",
            expected=f"at most {config.max_positions}, for which the model has learned positions",
            hint="cut the text",
        )


def _layers(
    model: Decoder,
    x: jax.Array,
    position: jax.Array,
    edits: Edits,
    wanted: Capture,
    adapters: Mapping[str, Adapter] | None,
    cache: Cache | None,
    remat: bool,
    fused: bool,
) -> tuple[jax.Array, dict[str, jax.Array], Cache | None]:
    """The residual after the last layer, the layers' captures, and the cache with this text."""
    config = model.config
    source = position if cache is None else write(cache.position, position, cache.filled, axis=1)
    differing = Differing(config, position, source)
    start = jnp.int32(0) if cache is None else cache.filled
    picked = {site: at.layers for site, at in wanted.items() if at.layers is not None}

    def body(carry: Any, layer_inputs: Any) -> Any:
        x, kept = carry
        layer, kind, block, adapter, past = layer_inputs
        tap = Tap(edits, wanted, Address(layer, position))
        around = Around(*differing(kind), adapter or {}, past, start, fused)
        x, past = run_block(config, block, x, around, tap)
        kept = {site: _keep(kept[site], tap.seen.pop(site), picked[site], layer) for site in kept}
        return (x, kept), (tap.seen, past)

    past = None if cache is None else (cache.k, cache.v)
    kept = _room(config, x, source.shape[1], wanted, picked)
    layers = jnp.arange(config.n_layers)
    scanned = (layers, differing.kinds, model.blocks, adapters, past)
    policies = jax.checkpoint_policies
    keep = policies.nothing_saveable if remat else policies.save_only_these_names(LINEAR)
    step = jax.checkpoint(body, policy=keep, prevent_cse=False)  # a scan separates the passes
    (x, kept), (seen, past) = over_layers(step, (x, kept), scanned)
    if cache is not None:
        cache = Cache(past[0], past[1], source, cache.filled + position.shape[1])
    captures = {**seen, **{site: buffer[: len(picked[site])] for site, buffer in kept.items()}}
    return x, captures, cache


def _embed(model: Decoder, tokens: Array, position: jax.Array) -> jax.Array:
    """What enters the first layer `[b, t, d]`; NaN at positions that no vector was learned for."""
    x = model.embed[...][tokens]
    if model.config.embed_scale != 1:
        x = x * jnp.asarray(model.config.embed_scale, x.dtype)
    if model.places is None:
        return x
    places = jnp.maximum(position, 0)
    return x + jnp.take(model.places[...], places, axis=0, mode="fill", fill_value=jnp.nan)


def _positions(mask: Array, cache: Cache | None) -> jax.Array:
    """int32 `[b, t]`: each real token's index in its row, -1 at padding."""
    position = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    if cache is not None:
        position = position + cache.next_position[:, None]
    return jnp.where(mask, position, -1)


def _unembed(model: Decoder, x: jax.Array) -> jax.Array:
    """Logits `[..., v]`, summed in float32 and capped where the family caps them."""
    if model.unembed is None:
        weights = model.embed[...]
        y = jnp.einsum("...d,vd->...v", x, weights, preferred_element_type=jnp.float32)
    else:
        weights = model.unembed.w[...]
        y = jnp.einsum("...d,dv->...v", x, weights, preferred_element_type=jnp.float32)
    return soft_cap(y, model.config.logit_cap)


def _room(
    config: Config, x: jax.Array, slots: int, wanted: Capture, picked: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Zeros for captures of some layers: `[layers + 1, b, t, ...]`, the last row for the others."""
    room = {}
    for site, layers in picked.items():
        about = find(site)
        if not about.layered:
            continue
        positions = wanted[site].positions
        text = x.shape[1] if positions is None else jnp.shape(positions)[-1]
        feature = about.feature_shape(config)
        if "s" in about.axes:
            feature = (*feature[:-1], slots)
        dtype = jnp.float32 if {"s", "x"} & set(about.axes) else x.dtype
        room[site] = jnp.zeros((len(layers) + 1, x.shape[0], text, *feature), dtype)
    return room


def _keep(room: jax.Array, x: jax.Array, layers: tuple[int, ...], layer: jax.Array) -> jax.Array:
    """`room` with this layer's `x` in its row; layers not asked for share the spare last row."""
    match = jnp.asarray(layers, jnp.int32) == layer
    row = jnp.where(match.any(), match.argmax(), len(layers))
    return jax.lax.dynamic_update_index_in_dim(room, x, row, axis=0)


def _check_maps(adapters: Mapping[str, Adapter] | None, config: Config) -> None:
    unknown = sorted(set(adapters or ()) - set(config.maps))
    if unknown:
        raise SelfxError(f"adapters for {', '.join(unknown)}", expected=f"maps among {config.maps}")
