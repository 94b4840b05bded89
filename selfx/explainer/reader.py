"""What a direction goes through before the explainer reads it: a few vectors, trained or given.

    reader(u, l) = scale[l] * (u @ projection[l]) + (u @ down[l]) @ up[l] + bias[l]
                 + softmax(mean of v @ keys[l'] + level[l'] over the example's v, l') @ words

Zeros are read as zeros. One row a layer of the target. Scale and bias alone are a SelfIE adapter
(arXiv 2602.10352), `down` and `up` its low-rank kind; the projection brings the target's width to
the explainer's (equation 3 of arXiv 2511.08579); keys and words tell outcomes apart by all vectors
of an example together (`selfx.explainer.probed`). A part that is None is not there: no projection
where widths agree.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError

PARTS = ("scale", "bias", "low_rank", "projection")
"""What of a reader can be trained; `low_rank` is `down` and `up` together."""


@struct.dataclass
class Reader:
    """The parts, each float32 or None.

    Attributes:
      scale: `[l]`.
      bias: `[l, d]` in the explainer's width.
      down: `[l, d, r]` from the target's width.
      up: `[l, r, d]` to the explainer's width.
      projection: `[l, d, d]` from the target's width to the explainer's.
      keys: `[l, d, k]`, what of a vector speaks for each of `k` outcomes.
      level: `[l, k]`, how much does without any.
      words: `[k, d]`, what each outcome is read as.
    """

    scale: Any = None
    bias: Any = None
    down: Any = None
    up: Any = None
    projection: Any = None
    keys: Any = None
    level: Any = None
    words: Any = None

    def __call__(self, directions: jax.Array, layers: jax.Array) -> jax.Array:
        """`directions` `[b, m, d]` of target layers `layers` `[b, m]`, as the explainer reads them.

        A layer that is unknown (-1) reads as the first.
        """
        layers = jnp.maximum(layers, 0)
        read = directions
        if self.projection is not None:
            # All layers' images, then the one: a matrix picked for each vector takes more room.
            images = jnp.einsum("bmd,lde->bmle", directions, self.projection)
            read = jnp.take_along_axis(images, layers[..., None, None], axis=2)[:, :, 0]
        if self.scale is not None:
            read = self.scale[layers][..., None] * read
        if self.down is not None:
            inner = jnp.einsum("bmd,bmdr->bmr", directions, self.down[layers])
            read = read + jnp.einsum("bmr,bmre->bme", inner, self.up[layers])
        # Where nothing is, nothing is read: a bias alone would be a vector like no other.
        there = (directions != 0).any(axis=-1, keepdims=True)
        if self.bias is not None:
            read = jnp.where(there, read + self.bias[layers], 0)
        if self.words is not None:
            read = jnp.where(there, read + self._outcome(directions, layers, there), 0)
        return read

    def _outcome(self, directions: jax.Array, layers: jax.Array, there: jax.Array) -> jax.Array:
        """What the outcome is read as, `[b, 1, d]`, by those of an example's vectors that are
        `there` `[b, m, 1]`."""
        spoken = jnp.einsum("bmd,bmdk->bmk", directions, self.keys[layers]) + self.level[layers]
        spoken = jnp.where(there, spoken, 0).sum(axis=1, keepdims=True)
        shares = jax.nn.softmax(spoken / jnp.maximum(there.sum(axis=1, keepdims=True), 1), axis=-1)
        return shares @ self.words

    @property
    def given(self) -> dict[str, Any]:
        """The parts that are there, by name."""
        fields = dataclasses.fields(self)
        parts = {field.name: getattr(self, field.name) for field in fields}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def untrained(self) -> Reader | None:
        """Of its parts those that a model has before any training, None without any.

        Without a projection no vector of another width could be read; what tells outcomes apart
        was fitted, and stands in the vectors' place.
        """
        kept = ("projection", "keys", "level", "words")
        parts = {name: part for name, part in self.given.items() if name in kept}
        if self.words is not None:
            parts["scale"] = jnp.zeros_like(self.level[:, 0])
        return Reader(**parts) if parts else None

    def over(self, other: Reader | None) -> Reader:
        """This reader, with the parts that it lacks from another."""
        return self if other is None else dataclasses.replace(other, **self.given)


def init_reader(
    parts: tuple[str, ...], *, layers: int, d_target: int, d_explainer: int, rank: int, key: Any
) -> Reader:
    """Fresh parts, of those named, which together change nothing yet; a projection is not made."""
    bound = 1 / math.sqrt(d_target)
    low = "low_rank" in parts
    down = jax.random.uniform(key, (layers, d_target, rank), jnp.float32, -bound, bound)
    return Reader(
        scale=jnp.ones(layers) if "scale" in parts else None,
        bias=jnp.zeros((layers, d_explainer)) if "bias" in parts else None,
        down=down if low else None,
        up=jnp.zeros((layers, rank, d_explainer)) if low else None,
    )


def centring(directions: np.ndarray, layers: np.ndarray, count: int) -> Reader:
    """The scale and bias that take each layer's mean direction away and leave length 1 on average.

    What all vectors of a layer share says nothing of any of them, and in a residual stream it is
    most of their length.

    Args:
      directions: float32 `[n, d]`, of length 1, as they meet scale and bias.
      layers: int `[n]`, after which layer of the target each was taken.
      count: how many layers the target has; those that are not met keep their vectors.
    """
    scale, bias = np.ones(count, np.float32), np.zeros((count, directions.shape[1]), np.float32)
    for layer in np.unique(layers[layers >= 0]):
        here = directions[layers == layer].astype(np.float64)
        mean = here.mean(axis=0)
        length = np.linalg.norm(here - mean, axis=1).mean()
        if length > 0:  # a layer of one vector has no mean to stand out from
            scale[layer], bias[layer] = 1 / length, -mean / length
    return Reader(scale=jnp.asarray(scale), bias=jnp.asarray(bias))


def check_reader(reader: Reader | None, d_target: int, d_explainer: int) -> None:
    """Raises SelfxError where a reader does not take one width to the other, or widths differ."""
    projection = None if reader is None else reader.projection
    if projection is None and d_target != d_explainer:
        raise SelfxError(
            f"vectors of width {d_target} for an explainer of width {d_explainer}",
            expected="a projection from one to the other",
            hint="train with --projection random, or one that was fitted",
        )
    if projection is not None and projection.shape[1:] != (d_target, d_explainer):
        raise SelfxError(
            f"a projection from {projection.shape[1]} to {projection.shape[2]} numbers",
            expected=f"from {d_target} to {d_explainer}",
        )


def save_reader(reader: Reader, path: Any) -> None:
    """Writes the parts as one safetensors file."""
    from safetensors.numpy import save

    from selfx.files import atomic

    tensors = {name: np.asarray(part) for name, part in reader.given.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(save(tensors))


def load_reader(path: Any) -> Reader:
    """The reader in a file.

    Raises:
      SelfxError: it cannot be read, or holds other tensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return Reader(**{name: jnp.asarray(part) for name, part in tensors.items()})
    except (SafetensorError, OSError, TypeError) as error:
        raise SelfxError(f"{path} cannot be read: {error}", hint="train it again") from error


def length(vectors: jax.Array) -> jax.Array:
    """The length of `vectors` `[..., d]`, `[..., 1]`; its gradient at zeros is zero."""
    squares = (vectors * vectors).sum(axis=-1, keepdims=True)
    none = squares == 0  # and not "above 0": what is not a number stays so
    return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, squares)))


def unit(vectors: jax.Array) -> jax.Array:
    """`vectors` at length 1; zeros stay zeros."""
    lengths = length(vectors)
    none = lengths == 0
    return jnp.where(none, 0, vectors / jnp.where(none, 1, lengths))
