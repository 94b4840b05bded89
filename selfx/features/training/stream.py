"""Activations streamed from a model over a text into a shuffled buffer on the device.

One compiled program reads a chunk of text at several layers at once, up to the highest layer asked
for, and writes what it saw to its places in the buffer. A batch is a gather from there. What goes
where is `shuffle.py`'s plan, a function of the seed and the step: the buffer's arrays
and the number of steps are all that a resumed run needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from selfx.errors import SelfxError
from selfx.features.training.packing import Packed
from selfx.features.training.shuffle import Shuffle, Turn
from selfx.models.decoder import Decoder, forward
from selfx.models.sites import find
from selfx.models.tap import At, canonical_capture


@struct.dataclass
class Buffer:
    """Activations of tokens in no order.

    Attributes:
      inputs: float32 `[l, s, d]`, `s` places.
      outputs: the same at the site to reconstruct, where that is another; else None.
    """

    inputs: jax.Array
    outputs: jax.Array | None

    def take(self, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What a dictionary reads and what it shall give, `[l, b, d]` each, at `places` `[b]`."""
        inputs = self.inputs[:, places]
        return inputs, inputs if self.outputs is None else self.outputs[:, places]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model at some places.

    Attributes:
      model: its weights, up to the highest layer in `layers`.
      site: what is read.
      layers: of which layers.
      out_site: what shall be reconstructed, if it is something else.
    """

    model: Decoder
    site: str
    layers: tuple[int, ...]
    out_site: str | None = None

    @property
    def widths(self) -> tuple[int, int | None]:
        """Of what is read, and of what shall be reconstructed if that is something else."""

        def width(site: str) -> int:
            return int(np.prod(find(site).feature_shape(self.model.config)))

        return width(self.site), width(self.out_site) if self.out_site else None


def source(model: Decoder, site: str, layers: Sequence[int], out_site: str | None = None) -> Source:
    """The model without the layers after the highest that is read.

    Raises:
      SelfxError: an unknown site, one without a width of its own, or a layer that is not there.
    """
    layers = tuple(layers)
    for name in {site, out_site or site}:
        canonical_capture({name: At(layers=layers)}, model.config)
        if {"s", "v"} & set(find(name).axes):
            raise SelfxError(
                f"a dictionary of {name!r}", expected="a site of fixed width, in layers"
            )
    return Source(first_layers(model, max(layers) + 1), site, layers, out_site)


def first_layers(model: Decoder, count: int) -> Decoder:
    """The model with its first `count` layers alone; nothing is copied if these are all."""
    if count == model.config.n_layers:
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.blocks = jax.tree.map(lambda x: x[:count], model.blocks)
    copy.config = dataclasses.replace(model.config, n_layers=count)
    return copy


Fill = Callable[[Buffer, Any, np.ndarray, np.ndarray, np.ndarray], Buffer]


def make_fill(source: Source) -> Fill:
    """The compiled `fill(buffer, model, tokens, mask, places) -> buffer` (the old one is reused).

    `tokens` and `mask` are `[b, t]`; `places` `[b * t]` says where each token's activation goes.
    """
    sites = {source.site, source.out_site or source.site}
    capture = {site: At(layers=source.layers) for site in sites}

    def fill(buffer, model, tokens, mask, places):
        seen = forward(model, tokens, mask=mask, capture=capture, fused=True).captures

        def write(room: jax.Array, site: str) -> jax.Array:
            rows = seen[site].reshape(len(room), -1, room.shape[-1]).astype(room.dtype)
            return room.at[:, places].set(rows, mode="drop")

        inputs, outputs = write(buffer.inputs, source.site), buffer.outputs
        if outputs is not None:
            outputs = write(outputs, source.out_site or source.site)
        return Buffer(inputs, outputs)

    return jax.jit(fill, donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A corpus seen by a model, in batches of activations.

    Attributes:
      model: what `fill` reads from.
      fill: writes a chunk's activations into the buffer, as `make_fill` returns it.
      widths: of what is read and of what is to be given, which is None where they are the same.
      n_layers: how many layers are read.
      tokens: int32 `[c, b, t]`, chunks of text.
      mask: bool `[c, b, t]`.
      shuffle: the plan.
    """

    model: Any
    fill: Fill
    widths: tuple[int, int | None]
    n_layers: int
    tokens: np.ndarray
    mask: np.ndarray
    shuffle: Shuffle

    def buffer(self) -> Buffer:
        """The buffer before the first step."""
        width, out_width = self.widths
        return Buffer(self._room(width), None if out_width is None else self._room(out_width))

    def _room(self, width: int) -> jax.Array:
        return jnp.zeros((self.n_layers, self.shuffle.size, width))

    def refill(self, buffer: Buffer, turn: Turn) -> Buffer:
        """The buffer once what `turn` asks for is read; the one given is used up."""
        for chunk, places in turn.fills:
            buffer = self.fill(buffer, self.model, self.tokens[chunk], self.mask[chunk], places)
        return buffer

    def batches(
        self, buffer: Buffer | None = None, start: int = 0
    ) -> Iterator[tuple[Buffer, np.ndarray]]:
        """`(buffer, places)` for every step from `start` on, without end.

        Args:
          buffer: as it was after step `start`; None for a first step.
          start: steps already taken.
        """
        buffer = self.buffer() if buffer is None else buffer
        for turn in self.shuffle.turns(start):
            buffer = self.refill(buffer, turn)
            yield buffer, turn.drawn


def stream(
    source: Source,
    text: Packed,
    *,
    rows: int = 16,
    size: int = 32768,
    batch: int = 2048,
    seed: int = 0,
) -> Stream:
    """Batches of `batch` activations of `text`, shuffled in a buffer of `size`.

    Args:
      source: the model and where it is read.
      text: rows of tokens.
      rows: how many the model reads at a time.
      size: places in the buffer.
      batch: tokens a step.
      seed: of the order.

    Raises:
      SelfxError: a buffer too small, or less text than a batch.
    """
    if min(rows, batch) < 1:
        raise SelfxError(f"rows={rows}, batch={batch}", expected="positive numbers")
    chunks = -(-len(text) // rows)

    def cut(part: np.ndarray) -> np.ndarray:
        spare = np.zeros((chunks * rows - len(part), part.shape[1]), part.dtype)
        return np.concatenate([part, spare]).reshape(chunks, rows, -1)

    tokens, mask, kept = cut(text.tokens), cut(text.mask), cut(text.kept)
    plan = Shuffle(kept.reshape(chunks, -1), size, batch, seed)
    fill, layers = make_fill(source), len(source.layers)
    return Stream(source.model, fill, source.widths, layers, tokens, mask, plan)


def stream_arrays(
    x: jax.Array, y: jax.Array | None = None, *, size: int, batch: int, seed: int = 0
) -> Stream:
    """Batches of activations that are there already, `[l, tokens, d]`, shuffled in the same way.

    Args:
      x: what is read.
      y: what shall be reconstructed, if that is something else.
      size: places in the buffer.
      batch: tokens a step.
      seed: of the order.

    Raises:
      SelfxError: a buffer too small, or fewer tokens than a batch.
    """
    count = x.shape[1]
    part = max(1, min(batch, count))
    chunks = -(-count // part)
    tokens = np.arange(chunks * part, dtype=np.int32).reshape(chunks, 1, part)
    mask = tokens < count
    plan = Shuffle(mask[:, 0], size, batch, seed)
    whole = Buffer(x, y)
    widths = (x.shape[-1], None if y is None else y.shape[-1])
    return Stream(whole, _copy, widths, len(x), tokens, mask, plan)


@partial(jax.jit, donate_argnums=0)
def _copy(
    buffer: Buffer, whole: Buffer, tokens: jax.Array, mask: jax.Array, places: jax.Array
) -> Buffer:
    """A `fill` from activations instead of a model; those after the last are not written."""
    return jax.tree.map(
        lambda room, x: room.at[:, places].set(x[:, tokens[0]], mode="drop"), buffer, whole
    )
