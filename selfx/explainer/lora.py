"""Low-rank adapters (arXiv 2106.09685) as a tree of their own, scanned beside the frozen weights.

    model                      forward(model, ..., lora=adapters)
    └── blocks.q.w [l, d, o]   adapters["q"] = Lora(a [l, d, r], b [l, r, o])
                               y = x @ w + scale * (x @ a) @ b

The base is never touched, so a gradient with respect to the adapters trains nothing else. Several
adapters stacked are one, and one merged into the base costs nothing more to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.models.block import MAPS
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import parameter_path
from selfx.models.quantized import is_quantized


@struct.dataclass
class Lora:
    """One adapter for one linear map of every layer.

    Attributes:
      a: `[l, in, r]`.
      b: `[l, r, out]`, zeros at first, so that an untrained adapter changes nothing.
      scale: what the product is multiplied by, alpha / rank (alpha / sqrt(rank) in rsLoRA). Static.
    """

    a: jax.Array
    b: jax.Array
    scale: float = struct.field(pytree_node=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The correction `[n, out]` of one layer, for `x` `[n, in]`."""
        return self.scale * (x @ self.a.astype(x.dtype)) @ self.b.astype(x.dtype)


@struct.dataclass
class Dropped:
    """An adapter that reads its input with random elements left out, in training alone.

    Attributes:
      adapter: the adapter.
      key: `[l]`, a PRNG key a layer.
      rate: how likely an element is to be left out; those that stay grow by 1 / (1 - rate). Static.
    """

    adapter: Lora
    key: jax.Array
    rate: float = struct.field(pytree_node=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The correction `[n, out]` of one layer, for `x` `[n, in]`."""
        kept = jax.random.bernoulli(self.key, 1 - self.rate, x.shape)
        return self.adapter(jnp.where(kept, x / (1 - self.rate), 0))


Adapters = dict[str, Lora]


def init(
    config: Config,
    *,
    rank: int,
    alpha: float,
    key: jax.Array,
    maps: Iterable[str] | None = None,
    dtype: Any = jnp.float32,
    rslora: bool = False,
) -> Adapters:
    """Fresh adapters `{map: Lora}`: `a` uniform as PEFT draws it, `b` zero.

    Args:
      config: the model's.
      rank: `r`.
      alpha: what the scale is made from.
      key: of the draw.
      maps: which linear maps get one; all of them, if None.
      dtype: of the matrices.
      rslora: whether the scale is alpha / sqrt(rank) (arXiv 2312.03732), else alpha / rank.

    Raises:
      SelfxError: a rank below 1, or a map that the model does not have.
    """
    maps = config.maps if maps is None else tuple(maps)
    unknown = sorted(set(maps) - set(config.maps))
    if rank < 1 or unknown:
        got = f"maps {', '.join(unknown)}" if unknown else f"rank {rank}"
        raise SelfxError(f"adapters with {got}", expected=f"rank from 1, maps among {config.maps}")
    adapters, scale = {}, alpha / (math.sqrt(rank) if rslora else rank)
    for name, map_key in zip(maps, jax.random.split(key, len(maps)), strict=True):
        n_in, n_out = config.map_shape(name)
        bound = 1 / math.sqrt(n_in)
        shape = (config.n_layers, n_in, rank)
        a = jax.random.uniform(map_key, shape, dtype, -bound, bound)
        adapters[name] = Lora(a, jnp.zeros((config.n_layers, rank, n_out), dtype), scale)
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


def with_dropout(adapters: Adapters, rate: float, key: jax.Array) -> Mapping[str, Lora | Dropped]:
    """The adapters with dropout as PEFT's, on what `a` reads, drawn anew for each map and layer.

    To be called inside the loss: keys are no weights, and the tree that is trained has none.

    Args:
      adapters: what is trained.
      rate: how likely an element is to be left out; 0 gives the adapters themselves.
      key: a PRNG key, another one every step.

    Raises:
      SelfxError: a rate below 0, or of 1 or more.
    """
    if not 0 <= rate < 1:
        raise SelfxError(f"dropout {rate}", expected="0 or more, and below 1")
    if rate == 0:
        return adapters
    return {
        name: Dropped(
            x, jax.random.split(jax.random.fold_in(key, MAPS.index(name)), len(x.a)), rate
        )
        for name, x in adapters.items()
    }


def stack(first: Adapters, second: Adapters) -> Adapters:
    """One set of adapters whose corrections are the sums of those of two, of both their ranks.

    Scales that differ go into `b`, and 1 stays.
    """
    return {
        name: _side_by_side([each[name] for each in (first, second) if name in each])
        for name in dict.fromkeys((*first, *second))
    }


def _side_by_side(adapters: list[Lora]) -> Lora:
    scales = {each.scale for each in adapters}
    scale = scales.pop() if len(scales) == 1 else 1.0
    b = [x.b if x.scale == scale else x.b * (x.scale / scale) for x in adapters]
    return Lora(jnp.concatenate([x.a for x in adapters], 2), jnp.concatenate(b, 1), scale)


@jax.jit
def merge(model: Decoder, adapters: Adapters) -> Decoder:
    """A copy of the model with the adapters added to its weights: one matrix, no detour."""
    return _moved(model, adapters, 1.0)


@jax.jit
def unmerge(model: Decoder, adapters: Adapters) -> Decoder:
    """A copy of a model without the adapters that were merged into it.

    Equal to what it was before but for the last bit of the larger of a weight and its correction.
    In bfloat16 that bit is a 256th part: keep the original instead.
    """
    return _moved(model, adapters, -1.0)


def corrected(weight: jax.Array, adapter: Lora, sign: float = 1.0) -> jax.Array:
    """The stacked weight `[l, in, out]` of a map with the adapter's product added, in its dtype."""
    product = jnp.einsum("lir,lro->lio", adapter.a, adapter.b, precision="highest")
    return (weight + sign * adapter.scale * product).astype(weight.dtype)


def _moved(model: Decoder, adapters: Adapters, sign: float) -> Decoder:
    if is_quantized(model):
        raise SelfxError(
            "adapters to merge into a quantised model",
            expected="weights in floats: what is added would be rounded away",
            hint="give them to forward and generate as lora=, or load the model unquantised",
        )
    paths = {f"blocks.{name}.w": adapter for name, adapter in adapters.items()}

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        adapter = paths.get(parameter_path(path))
        return leaf if adapter is None else corrected(leaf, adapter, sign)

    return jax.tree_util.tree_map_with_path(moved, model)
