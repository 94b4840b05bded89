"""A mixture of experts: every token goes through the few that its router chooses."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from selfx.models.config import Config
from selfx.models.layers import ACTIVATIONS, Linear
from selfx.models.tap import Tap


class ExpertWeights(nnx.Module):
    """The router `[d, x]`, and the experts' maps: gate and up `[x, d, f]`, down `[x, f, d]`."""

    def __init__(self, config: Config, key: jax.Array, dtype: Any):
        assert config.experts is not None
        x, d, f = config.experts.n_experts, config.d_model, config.d_ff
        keys = jax.random.split(key, 4)
        self.router = Linear(d, x, False, keys[0], dtype)
        self.gate = nnx.Param(jax.random.normal(keys[1], (x, d, f), dtype) / math.sqrt(d))
        self.up = nnx.Param(jax.random.normal(keys[2], (x, d, f), dtype) / math.sqrt(d))
        self.down = nnx.Param(jax.random.normal(keys[3], (x, f, d), dtype) / math.sqrt(f))

    def __call__(self, y: jax.Array, config: Config, tap: Tap) -> jax.Array:
        """What the chosen experts return `[b, t, d]`, weighted by the router and summed."""
        assert config.experts is not None
        scores = tap("router_logits", self.router(y).astype(jnp.float32))
        weight, expert = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), config.experts.n_chosen)
        if config.experts.normalized:
            weight = weight / weight.sum(axis=-1, keepdims=True)
        rows = y.reshape(-1, y.shape[-1])
        blocks = _blocks(expert.reshape(len(rows), -1), config.experts.n_experts)

        def run(block: tuple[jax.Array, jax.Array]) -> jax.Array:
            token, expert = block
            x = rows.at[token].get(mode="fill", fill_value=0)
            gate = ACTIVATIONS[config.activation](x @ self.gate[expert])
            return (gate * (x @ self.up[expert])) @ self.down[expert]

        out = jax.lax.map(run, (blocks.token, blocks.expert)).reshape(-1, y.shape[-1])
        chosen = out[blocks.place].reshape(*weight.shape, -1)
        return (chosen * weight[..., None].astype(y.dtype)).sum(axis=-2)


@struct.dataclass
class Blocks:
    """Tokens sorted by expert, so that each block of rows meets one expert's weights.

    Attributes:
      token: int32 `[blocks, size]`, which token each row is; past the last where a row is empty.
      expert: int32 `[blocks]`.
      place: int32 `[n * c]`, the row in which each token meets each of its experts.
    """

    token: jax.Array
    expert: jax.Array
    place: jax.Array


def _blocks(expert: jax.Array, n_experts: int) -> Blocks:
    """Which rows meet which expert, from the experts chosen `[n, c]`.

    An expert's rows fill whole blocks, the last one in part: at most one block an expert is wasted
    (the layout of MegaBlocks, arXiv 2211.15841). `jax.lax.ragged_dot` would need no blocks, and
    cannot be batched by vmap.
    """
    n, chosen = expert.shape
    size = max(1, -(-n * chosen // n_experts))
    count = min(n * chosen, -(-n * chosen // size) + n_experts)
    flat = expert.reshape(-1)
    hits = (flat[:, None] == jnp.arange(n_experts)).astype(jnp.int32)
    rank = jnp.take_along_axis(hits.cumsum(axis=0), flat[:, None], axis=1)[:, 0] - 1
    ends = (-(-hits.sum(axis=0) // size)).cumsum()
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    place = starts[flat] * size + rank
    token = jnp.full(count * size, n, jnp.int32).at[place].set(jnp.arange(n * chosen) // chosen)
    owner = jnp.searchsorted(ends, jnp.arange(count), side="right")
    return Blocks(token.reshape(count, size), jnp.minimum(owner, n_experts - 1), place)
