"""The layers of a model: stacked in one array and scanned, or apart in arrays of their own.

Stacked is how a model is loaded, trained, sharded and saved: one layer is compiled for all. A scan
copies each layer's weights out of the stack on CPU, which costs little beside a text of many tokens
and much beside writing one. For that, `apart` lays a copy of the layers side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Body = Callable[[Any, Any], tuple[Any, tuple[Any, Any]]]


@struct.dataclass
class Apart:
    """A tree for every layer, where a stacked tree has one with a leading axis `l`."""

    layers: tuple[Any, ...]


def split(tree: Any, n_layers: int) -> Apart:
    """The layers of a stacked tree, each on its own."""
    return Apart(tuple(_layer(tree, layer) for layer in range(n_layers)))


def over_layers(body: Body, carry: Any, inputs: Any) -> tuple[Any, tuple[Any, Any]]:
    """What `jax.lax.scan(body, carry, inputs)` returns, also where some of the inputs are apart.

    Args:
      body: `(carry, one layer's inputs) -> (carry, (seen, past))`.
      carry: goes from layer to layer.
      inputs: a tree of stacked arrays and of `Apart`. If any is apart the loop is unrolled, `seen`
        comes back stacked and every leaf of `past` apart.
    """
    parts = jax.tree.leaves(inputs, is_leaf=_is_apart)
    lengths = {len(part.layers) for part in parts if _is_apart(part)}
    if not lengths:
        return jax.lax.scan(body, carry, inputs)
    outputs = []
    for layer in range(*lengths):
        carry, output = body(carry, _layer(inputs, layer))
        outputs.append(output)
    seen = jax.tree.map(lambda *xs: jnp.stack(xs), *[seen for seen, _ in outputs])
    past = jax.tree.map(lambda *xs: Apart(xs), *[past for _, past in outputs])
    return carry, (seen, past)


def _layer(tree: Any, layer: int) -> Any:
    def part(leaf: Any) -> Any:
        return leaf.layers[layer] if _is_apart(leaf) else leaf[layer]

    return jax.tree.map(part, tree, is_leaf=_is_apart)


def _is_apart(leaf: Any) -> bool:
    return isinstance(leaf, Apart)
