"""The decoder: parameters as one frozen tree, and one scan over its stacked layers.

A `Decoder` is a pytree of arrays (a Flax NNX module used as data, never mutated). `forward` is a
pure function of it: jit, vmap, grad, pmap and sharding apply to it as to any function of arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from selfx.errors import SelfxError
from selfx.models.attention import attend
from selfx.models.cache import Cache, write
from selfx.models.config import Config
from selfx.models.layers import LINEAR, Adapter, Linear, rms_norm, rotary_tables, rotate
from selfx.models.sites import SITES
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

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
"""The linear maps of a layer, which an adapter may stand beside."""


class Block(nnx.Module):
    """Weights of one layer (of all layers, once stacked): norm, attention, norm, gated MLP."""

    def __init__(self, config: Config, key: jax.Array, dtype: Any):
        d, f = config.d_model, config.d_ff
        heads, kv_heads = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        bias, mlp_bias = config.attention_bias, config.mlp_bias
        keys = jax.random.split(key, len(MAPS))
        self.attn_norm = nnx.Param(jnp.ones(d, dtype))
        self.q = Linear(d, heads, bias, keys[0], dtype)
        self.k = Linear(d, kv_heads, bias, keys[1], dtype)
        self.v = Linear(d, kv_heads, bias, keys[2], dtype)
        self.o = Linear(heads, d, bias, keys[3], dtype)
        self.mlp_norm = nnx.Param(jnp.ones(d, dtype))
        self.gate = Linear(d, f, mlp_bias, keys[4], dtype)
        self.up = Linear(d, f, mlp_bias, keys[5], dtype)
        self.down = Linear(f, d, mlp_bias, keys[6], dtype)


class Decoder(nnx.Module):
    """Weights of a whole model; random as made, real once `selfx.weights` has filled it."""

    def __init__(self, config: Config, key: jax.Array, dtype: Any = jnp.float32):
        embed_key, unembed_key, blocks_key = jax.random.split(key, 3)
        shape = (config.vocab_size, config.d_model)
        self.config = config
        self.embed = nnx.Param(jax.random.normal(embed_key, shape, dtype))
        self.blocks = jax.vmap(lambda k: Block(config, k, dtype))(
            jax.random.split(blocks_key, config.n_layers)
        )
        self.final_norm = nnx.Param(jnp.ones(config.d_model, dtype))
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
    _check_maps(lora)
    mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool)
    position = _positions(mask, cache)
    tap = Tap(edits, wanted, Address(jnp.int32(0), position))
    x = tap("embeddings", model.embed[...][tokens])
    x, layered, cache = _layers(model, x, position, edits, wanted, lora, cache, remat)
    if logits_at is not None and not tap.wants("final_norm", "logits"):
        x = gather_positions(x, position, logits_at)
        logits_at = None
    x = tap("final_norm", rms_norm(x, model.final_norm[...], config.norm_eps))
    logits = tap("logits", _unembed(model, x))
    logits = gather_positions(logits, position, logits_at)
    return Output(logits, {**tap.seen, **layered}, cache)


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


def parameter_shapes(config: Config, dtype: Any = jnp.float32) -> dict[str, jax.ShapeDtypeStruct]:
    """`{path: shape and dtype}` of every weight, e.g. `blocks.q.w`; nothing is allocated."""
    leaves, _ = _flatten(config, dtype)
    return {_path(path): leaf for path, leaf in leaves}


def from_parameters(config: Config, parameters: Mapping[str, jax.Array], dtype: Any) -> Decoder:
    """The decoder whose weights are `parameters`, by the paths of `parameter_shapes`."""
    leaves, treedef = _flatten(config, dtype)
    return jax.tree.unflatten(treedef, [parameters[_path(path)] for path, _ in leaves])


def _flatten(config: Config, dtype: Any) -> tuple[list[tuple[Any, Any]], Any]:
    model = jax.eval_shape(lambda key: Decoder(config, key, dtype), jax.random.key(0))
    return jax.tree_util.tree_flatten_with_path(model)


def _path(path: tuple[Any, ...]) -> str:
    names = (getattr(part, "name", getattr(part, "key", None)) for part in path)
    return ".".join(str(name) for name in names if name not in (None, "value"))


def _layers(
    model: Decoder,
    x: jax.Array,
    position: jax.Array,
    edits: Edits,
    wanted: Capture,
    adapters: Mapping[str, Adapter] | None,
    cache: Cache | None,
    remat: bool,
) -> tuple[jax.Array, dict[str, jax.Array], Cache | None]:
    """The residual after the last layer, the layers' captures, and the cache with this text."""
    config = model.config
    source = position if cache is None else write(cache.position, position, cache.filled, axis=1)
    reach = position if cache is None else source
    visible = (reach[:, None, :] >= 0) & (reach[:, None, :] <= position[:, :, None])
    tables = rotary_tables(config, position)
    start = jnp.int32(0) if cache is None else cache.filled
    picked = {site: at.layers for site, at in wanted.items() if at.layers is not None}

    def body(carry: Any, layer_inputs: Any) -> Any:
        x, kept = carry
        layer, block, adapter, past = layer_inputs
        tap = Tap(edits, wanted, Address(layer, position))
        x, past = _block(config, block, x, tables, visible, tap, adapter or {}, past, start)
        kept = {site: _keep(kept[site], tap.seen.pop(site), picked[site], layer) for site in kept}
        return (x, kept), (tap.seen, past)

    past = None if cache is None else (cache.k, cache.v)
    kept = _room(config, x, source.shape[1], wanted, picked)
    scanned = (jnp.arange(config.n_layers), model.blocks, adapters, past)
    policies = jax.checkpoint_policies
    keep = policies.nothing_saveable if remat else policies.save_only_these_names(LINEAR)
    step = jax.checkpoint(body, policy=keep, prevent_cse=False)  # a scan separates the passes
    (x, kept), (seen, past) = over_layers(step, (x, kept), scanned)
    if cache is not None:
        cache = Cache(past[0], past[1], source, cache.filled + position.shape[1])
    captures = {**seen, **{site: buffer[: len(picked[site])] for site, buffer in kept.items()}}
    return x, captures, cache


def _block(
    config: Config,
    block: Block,
    x: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    visible: jax.Array,
    tap: Tap,
    adapters: Mapping[str, Adapter],
    past: tuple[jax.Array, jax.Array] | None,
    start: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    """One layer: the residual `[b, t, d]` it leaves, and its keys and values with this text."""
    lora = adapters.get
    heads = (*x.shape[:2], -1, config.d_head)
    x = tap("resid_pre", x)
    y = tap("attn_in", rms_norm(x, block.attn_norm[...], config.norm_eps))
    q = rotate(tap("query", block.q(y, lora("q")).reshape(heads)), tables)
    k = rotate(tap("key", block.k(y, lora("k")).reshape(heads)), tables).transpose(0, 2, 3, 1)
    v = tap("value", block.v(y, lora("v")).reshape(heads)).swapaxes(1, 2)
    if past is not None:
        past = k, v = write(past[0], k, start, axis=3), write(past[1], v, start, axis=2)
    z = tap("z", attend(q, k, v, visible, tap))
    y = tap("attn_out", block.o(z.reshape(*x.shape[:2], -1), lora("o")))
    x = tap("resid_mid", x + tap("attn_out_post", y))
    y = tap("mlp_in", rms_norm(x, block.mlp_norm[...], config.norm_eps))
    gate = tap("mlp_pre", block.gate(y, lora("gate")))
    y = tap("mlp_act", jax.nn.silu(gate) * block.up(y, lora("up")))
    y = tap("mlp_out", block.down(y, lora("down")))
    return tap("resid_post", x + tap("mlp_out_post", y)), past


def _positions(mask: Array, cache: Cache | None) -> jax.Array:
    """int32 `[b, t]`: each real token's index in its row, -1 at padding."""
    position = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    if cache is not None:
        position = position + cache.next_position[:, None]
    return jnp.where(mask, position, -1)


def _unembed(model: Decoder, x: jax.Array) -> jax.Array:
    """Logits `[b, t, v]`, summed in float32."""
    if model.unembed is None:
        return jnp.einsum("btd,vd->btv", x, model.embed[...], preferred_element_type=jnp.float32)
    weights = model.unembed.w[...]
    return jnp.einsum("btd,dv->btv", x, weights, preferred_element_type=jnp.float32)


def _room(
    config: Config, x: jax.Array, slots: int, wanted: Capture, picked: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Zeros for captures of some layers: `[layers + 1, b, t, ...]`, the last row for the others."""
    room = {}
    for site, layers in picked.items():
        if not SITES[site].layered:
            continue
        positions = wanted[site].positions
        text = x.shape[1] if positions is None else jnp.shape(positions)[-1]
        feature = SITES[site].feature_shape(config)
        if "s" in SITES[site].axes:
            feature = (*feature[:-1], slots)
        dtype = jnp.float32 if "s" in SITES[site].axes else x.dtype
        room[site] = jnp.zeros((len(layers) + 1, x.shape[0], text, *feature), dtype)
    return room


def _keep(room: jax.Array, x: jax.Array, layers: tuple[int, ...], layer: jax.Array) -> jax.Array:
    """`room` with this layer's `x` in its row; layers not asked for share the spare last row."""
    match = jnp.asarray(layers, jnp.int32) == layer
    row = jnp.where(match.any(), match.argmax(), len(layers))
    return jax.lax.dynamic_update_index_in_dim(room, x, row, axis=0)


def _check_maps(adapters: Mapping[str, Adapter] | None) -> None:
    unknown = sorted(set(adapters or ()) - set(MAPS))
    if unknown:
        raise SelfxError(f"adapters for {', '.join(unknown)}", expected=f"maps among {MAPS}")
