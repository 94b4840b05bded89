"""One layer of a decoder: its weights, and what it does to the residual stream.

    resid_pre ─ attn_in ─ query, key, value ─ attn_scores ─ attn_probs ─ z ─ attn_out ─ _post
        └──────────────────────────────────── + ───────────────────────────────────┘
    resid_mid ─ mlp_in ─ mlp_pre ─ mlp_act ─ mlp_out ─ _post
        └──────────────────── + ──────────────────────┘
    resid_post

Families differ in what they norm (before, after, queries and keys), in what the MLP reads (the
residual after the attention, or in parallel the one before it), and in the maps themselves. The
sites are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx, struct

from selfx.models.attention import attend
from selfx.models.cache import write
from selfx.models.config import Config
from selfx.models.experts import ExpertWeights
from selfx.models.layers import ACTIVATIONS, Adapter, Linear, Norm
from selfx.models.rotary import Tables, rotate
from selfx.models.tap import Tap

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
"""The linear maps that a layer may have; a model's own are `config.maps`."""


class Block(nnx.Module):
    """Weights of one layer (of all layers, once stacked); None where a family has none."""

    def __init__(self, config: Config, key: jax.Array, dtype: Any):
        def norm(wanted: bool, width: int = config.d_model) -> Norm | None:
            return Norm(width, config, dtype) if wanted else None

        keys = dict(zip(MAPS, jax.random.split(key, len(MAPS)), strict=True))
        biased = {"o": config.output_bias, **dict.fromkeys("qkv", config.attention_bias)}
        linear = {
            name: Linear(*config.map_shape(name), biased.get(name, config.mlp_bias), at, dtype)
            for name, at in keys.items()
            if name in config.maps
        }
        per_head = config.qk_norm == "head"
        rows = (config.map_shape("q")[1], config.map_shape("k")[1])
        q_width, k_width = (config.d_head, config.d_head) if per_head else rows
        self.attn_norm = norm(config.pre_norm)
        self.q, self.k, self.v, self.o = (linear[name] for name in "qkvo")
        self.q_norm = norm(config.qk_norm is not None, q_width)
        self.k_norm = norm(config.qk_norm is not None, k_width)
        self.attn_post_norm = norm(config.post_norm)
        self.mlp_norm = norm(config.pre_norm)
        self.gate, self.up, self.down = (linear.get(name) for name in ("gate", "up", "down"))
        self.experts = ExpertWeights(config, keys["up"], dtype) if config.experts else None
        self.mlp_post_norm = norm(config.post_norm)


@struct.dataclass
class Around:
    """What a layer needs to know besides its weights.

    Attributes:
      tables: cosines and sines `[b, t, w/2]` of the rotary embedding, or None.
      visible: bool `[b, t, s]`, which tokens a token sees.
      score_scale: what products of query and key are multiplied by.
      adapters: `{map: adapter}`.
      past: the cache's keys and values of this layer, or None.
      start: the cache's slot from which on this text is written.
    """

    tables: Tables | None
    visible: jax.Array
    score_scale: jax.Array | float
    adapters: Mapping[str, Adapter]
    past: tuple[jax.Array, jax.Array] | None
    start: jax.Array
    fused: bool = struct.field(pytree_node=False, default=False)


Past = tuple[jax.Array, jax.Array] | None


def run_block(
    config: Config, block: Block, x: jax.Array, around: Around, tap: Tap
) -> tuple[jax.Array, Past]:
    """The residual `[b, t, d]` that a layer leaves, and its keys and values with this text."""
    before = tap("resid_pre", x)
    y = tap("attn_in", _normed(block.attn_norm, before, config))
    y, past = _attention(config, block, y, around, tap)
    y = tap("attn_out_post", _normed(block.attn_post_norm, tap("attn_out", y), config))
    x = tap("resid_mid", before + y)
    y = tap("mlp_in", _normed(block.mlp_norm, before if config.parallel else x, config))
    y = tap("mlp_out", _mlp(config, block, y, around, tap))
    y = tap("mlp_out_post", _normed(block.mlp_post_norm, y, config))
    return tap("resid_post", x + y), past


def _normed(norm: Norm | None, x: jax.Array, config: Config) -> jax.Array:
    return x if norm is None else norm(x, config)


def _attention(
    config: Config, block: Block, y: jax.Array, around: Around, tap: Tap
) -> tuple[jax.Array, Past]:
    """What the output map returns `[b, t, d]`, and keys and values with this text."""

    def heads(name: str, linear: Linear, norm: Norm | None = None) -> jax.Array:
        x = linear(y, around.adapters.get(name))
        if norm is not None:  # over each head, or over all of them at once: as wide as its weight
            x = norm(x.reshape(*y.shape[:2], -1, norm.w.shape[-1]), config)
        return x.reshape(*y.shape[:2], -1, config.d_head)

    q = rotate(tap("query", heads("q", block.q, block.q_norm)), around.tables)
    k = rotate(tap("key", heads("k", block.k, block.k_norm)), around.tables).transpose(0, 2, 3, 1)
    v = tap("value", heads("v", block.v)).swapaxes(1, 2)
    past = around.past
    if past is not None:
        past = k, v = (
            write(past[0], k, around.start, axis=3),
            write(past[1], v, around.start, axis=2),
        )
    z = attend(q, k, v, around.visible, around.score_scale, config.score_cap, tap, around.fused)
    z = tap("z", z).reshape(*y.shape[:2], -1)
    return block.o(z, around.adapters.get("o")), past


def _mlp(config: Config, block: Block, y: jax.Array, around: Around, tap: Tap) -> jax.Array:
    if block.experts is not None:
        return block.experts(y, config, tap)
    assert block.up is not None
    assert block.down is not None
    lora, activation = around.adapters.get, ACTIVATIONS[config.activation]
    if block.gate is None:
        y = activation(tap("mlp_pre", block.up(y, lora("up"))))
    else:
        gate = tap("mlp_pre", block.gate(y, lora("gate")))
        y = activation(gate) * block.up(y, lora("up"))
    return block.down(tap("mlp_act", y), lora("down"))
