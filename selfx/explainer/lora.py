"""Low-rank adapters (arXiv 2106.09685) as a tree of their own, scanned beside the frozen weights.

    model                      forward(model, ..., lora=adapters)
    └── blocks.q.w [l, d, o]   adapters["q"] = Lora(a [l, d, r], b [l, r, o])
                               y = x @ w + scale * (x @ a) @ b

The base is never touched, so a gradient with respect to the adapters trains nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.decoder import Decoder


@struct.dataclass
class Lora:
    """One adapter for one linear map of every layer.

    Attributes:
      a: `[l, in, r]`.
      b: `[l, r, out]`, zeros at first, so that an untrained adapter changes nothing.
      scale: what the product is multiplied by, alpha / rank. Static.
    """

    a: jax.Array
    b: jax.Array
    scale: float = struct.field(pytree_node=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The correction `[n, out]` of one layer, for `x` `[n, in]`."""
        return self.scale * (x @ self.a.astype(x.dtype)) @ self.b.astype(x.dtype)


Adapters = dict[str, Lora]


def init(
    config: Config,
    *,
    rank: int,
    alpha: float,
    key: jax.Array,
    maps: Iterable[str] | None = None,
    dtype: Any = jnp.float32,
) -> Adapters:
    """Fresh adapters `{map: Lora}`: `a` uniform as PEFT draws it, `b` zero.

    Raises:
      SelfxError: a rank below 1, or a map that the model does not have.
    """
    maps = config.maps if maps is None else tuple(maps)
    unknown = sorted(set(maps) - set(config.maps))
    if rank < 1 or unknown:
        got = f"maps {', '.join(unknown)}" if unknown else f"rank {rank}"
        raise SelfxError(f"adapters with {got}", expected=f"rank from 1, maps among {config.maps}")
    adapters = {}
    for name, map_key in zip(maps, jax.random.split(key, len(maps)), strict=True):
        n_in, n_out = config.map_shape(name)
        bound = 1 / math.sqrt(n_in)
        shape = (config.n_layers, n_in, rank)
        a = jax.random.uniform(map_key, shape, dtype, -bound, bound)
        adapters[name] = Lora(a, jnp.zeros((config.n_layers, rank, n_out), dtype), alpha / rank)
    return adapters


def check_adapters(adapters: Adapters, config: Config) -> None:
    """Raises SelfxError where adapters are not of this model's maps and shapes."""
    for name, adapter in adapters.items():
        (n_in, n_out), rank = config.map_shape(name), adapter.a.shape[-1]
        wanted = [(config.n_layers, n_in, rank), (config.n_layers, rank, n_out)]
        found = [adapter.a.shape, adapter.b.shape]
        if found != wanted:
            raise SelfxError(
                f"an adapter of shapes {found} for {name!r}",
                expected=f"{wanted}, to fit the model",
            )


@jax.jit
def merge(model: Decoder, adapters: Adapters) -> Decoder:
    """A copy of the model with the adapters added to its weights: one matrix, no detour."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(model)

    def merged(path: Any, leaf: jax.Array) -> jax.Array:
        names = [getattr(part, "name", getattr(part, "key", None)) for part in path]
        found = [name for name in adapters if names[:3] == ["blocks", name, "w"]]
        if not found:
            return leaf
        adapter = adapters[found[0]]
        product = jnp.einsum("lir,lro->lio", adapter.a, adapter.b, precision="highest")
        return (leaf + adapter.scale * product).astype(leaf.dtype)

    return jax.tree.unflatten(treedef, [merged(path, leaf) for path, leaf in leaves])
