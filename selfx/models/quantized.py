"""A frozen base in 8 or 4 bits: its layers' linear maps as the quantised arrays of qwix.

    w [l, in, out]  ->  numbers: int8 [l, in, out], or two of 4 bits in each of uint8 [l, in/2, out]
                        scale: float32 [l, in/tile, out]

A `Quantized` stands where the weight stood and answers `w[...]` with floats, so that nothing else
of a model knows of it. In the scan over layers that is one layer's weights at a time. A backward
pass makes them anew; it reaches adapters and activations, never the numbers themselves.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from selfx.errors import SelfxError
from selfx.models.decoder import Decoder
from selfx.models.parameters import parameter_path

METHODS = ("int8", "nf4")
"""How weights can be quantised: to 255 even steps, or to the 16 values of QLoRA (arXiv 2305.14314),
between which the weights of a normal distribution fall equally often."""

TILE = 64
"""How many inputs share a scale: QLoRA's number."""

_MAPS = re.compile(r"blocks\.((q|k|v|o|gate|up|down)\.w|experts\.(gate|up|down))")


@struct.dataclass
class Quantized:
    """A stacked weight in few bits, which gives floats where it is indexed.

    Attributes:
      numbers: int8 `[l, (x,) in, out]`, or uint8 `[l, (x,) in/2, out]` with two inputs in a byte:
        XLA would lay out 4-bit numbers a byte each on CPU, and in a loop copy all of them.
      scale: float32 `[l, (x,) in/tile, out]`.
      method: a name in `METHODS`. Static.
      dtype: of the floats. Static.
    """

    numbers: jax.Array
    scale: jax.Array
    method: str = struct.field(pytree_node=False)
    dtype: Any = struct.field(pytree_node=False)

    def __getitem__(self, index: Any) -> jax.Array:
        """The floats at an index of the axes before `in`, whatever qwix makes of the numbers."""
        part = jax.tree.map(lambda leaf: leaf[index], self)
        return _qwix().dequantize(part.array).astype(self.dtype)

    @property
    def array(self) -> Any:
        """The whole as a `QArray` of qwix."""
        if self.method == "int8":
            return _qwix().QArray(self.numbers, self.scale, None, jnp.int8)
        pairs = jnp.stack([self.numbers & 15, self.numbers >> 4], axis=-2)
        *lead, inputs, outputs = self.numbers.shape
        return _qwix().QArray(pairs.reshape(*lead, 2 * inputs, outputs), self.scale, None, "nf4")


def quantize(model: Decoder, method: str, *, tile: int = TILE, donate: bool = False) -> Decoder:
    """The model with its layers' linear maps in few bits; embeddings, norms, biases as they were.

    Args:
      model: the weights.
      method: a name in `METHODS`.
      tile: how many inputs share a scale, or as many of them as divide a map's inputs (their
        greatest common divisor).
      donate: free each weight once it is quantised, so that both are never held whole; the model
        given is of no use afterwards.

    Raises:
      SelfxError: an unknown method, a tile below 1, a model that is quantised already or whose
        layers are apart; qwix is not installed.
    """
    check_method(method)
    if tile < 1:
        raise SelfxError(f"tile={tile}", expected="at least 1")
    if is_quantized(model) or not isinstance(model.blocks, nnx.Module):
        raise SelfxError(
            "a model that is quantised already, or whose layers are apart",
            expected="one in floats, as it is loaded",
        )

    def change(path: Any, leaf: Any) -> Any:
        if not _MAPS.fullmatch(parameter_path(path)):
            return leaf
        weight = leaf[...]
        numbers, scale = _parts(weight, method, math.gcd(tile, weight.shape[-2]))
        if donate:
            jax.block_until_ready(scale)
            weight.delete()
        return Quantized(numbers, scale, method, weight.dtype)

    return jax.tree_util.tree_map_with_path(
        change, model, is_leaf=lambda leaf: isinstance(leaf, nnx.Param)
    )


def is_quantized(model: Any) -> bool:
    """Whether any weight of a model, or of its layers apart, is held in few bits."""
    leaves = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, Quantized))
    return any(isinstance(leaf, Quantized) for leaf in leaves)


def check_method(method: str) -> None:
    """Nothing, if weights can be quantised so.

    Raises:
      SelfxError: the method is unknown, or qwix is not installed.
    """
    if method not in METHODS:
        raise SelfxError(f"quantize={method!r}", expected=f"one of {', '.join(METHODS)}")
    _qwix()


@functools.partial(jax.jit, static_argnames=("method", "tile"))
def _parts(weight: jax.Array, method: str, tile: int) -> tuple[jax.Array, jax.Array]:
    """Numbers and scales of a stacked weight, a layer at a time: no more is ever in float32."""
    *lead, inputs, outputs = range(weight.ndim - 1)

    def one(layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        array = _qwix().quantize(
            layer.astype(jnp.float32),
            jnp.int8 if method == "int8" else method,
            channelwise_axes=(*lead, outputs),
            tiled_axes={inputs: tile},
        )
        return array.qvalue if method == "int8" else _packed(array.qvalue), array.scale

    return jax.lax.map(one, weight)


def _packed(numbers: jax.Array) -> jax.Array:
    """uint8 `[..., in/2, out]` of 4-bit numbers `[..., in, out]`: neighbours, the first one low."""
    *lead, inputs, outputs = numbers.shape
    if inputs % 2:
        raise SelfxError(
            f"a map of {inputs} inputs", expected="an even number: two to a byte", hint="int8"
        )
    pairs = numbers.astype(jnp.uint8).reshape(*lead, inputs // 2, 2, outputs)
    return pairs[..., 0, :] | pairs[..., 1, :] << 4


def _qwix() -> Any:
    try:
        return importlib.import_module("qwix")
    except ImportError as error:
        raise SelfxError(
            f"a quantised model needs qwix: {error}",
            expected="qwix 0.1.8 or newer",
            hint="pip install 'selfx[qlora]'",
        ) from error
