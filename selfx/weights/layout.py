"""From the tensors of files to the weights of a decoder, by a family's table, and back.

Weights are built where they will live: there is room for each on its devices, stacked over layers,
before the first tensor is read, and tensors are written into it one at a time, in whatever order
the files have them. So the host never holds more than one file and a layer besides.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_shapes
from selfx.sharding import make_room
from selfx.weights.tables import LAYOUTS, Fused, Row

Format = Literal["hf", "gguf"]
Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor, or a part of it, goes: the weight's path, and layer (and expert) in it."""

    path: str
    index: Index
    row: Row


def places(config: Config, fmt: Format) -> dict[str, list[Place]]:
    """`{tensor's name: where its parts go}` for every tensor that a file of this config holds."""
    found: dict[str, list[Place]] = defaultdict(list)
    for path in _shapes(config):
        row = LAYOUTS[config.family].table[path]
        for index in _indices(path, config):
            numbers = dict(zip(("layer", "expert"), index, strict=False))
            found[getattr(row, fmt).format(**numbers)].append(Place(path, index, row))
    return dict(found)


def expected_tensors(config: Config, fmt: Format) -> dict[str, tuple[int, ...]]:
    """`{tensor's name: shape}` that a file of this config must hold."""
    shapes = _shapes(config)
    return {name: _file_shape(parts, shapes) for name, parts in places(config, fmt).items()}


def check_tensors(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    where: str,
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Nothing, if the tensors found are those expected.

    Raises:
      SelfxError: everything missing, unexpected and of another shape, in one message.
    """
    lines = differences(found, expected, optional)
    if lines:
        raise misfit(where, lines, len(expected))


def differences(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> list[str]:
    """A line each for the tensors missing, those unexpected and those of another shape, if any."""
    known = {**(optional or {}), **expected}
    shapes = [
        f"{name} {list(found[name])}, not {list(known[name])}"
        for name in sorted(found.keys() & known.keys())
        if tuple(found[name]) != tuple(known[name])
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - known.keys()),
        "wrong shape": shapes,
    }
    return [f"{title}: {some(names)}" for title, names in problems.items() if names]


def misfit(where: str, lines: Iterable[str], n_expected: int) -> SelfxError:
    """The error to raise where tensors and config do not belong together."""
    return SelfxError(
        "\n  ".join([f"the tensors of {where} do not fit its config", *lines]),
        expected=f"{n_expected} tensors of the shapes that the config gives",
        hint="check that weights and config belong together and were downloaded whole",
    )


def assemble(
    config: Config,
    fmt: Format,
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: Any,
    mesh: jax.sharding.Mesh | None = None,
) -> Decoder:
    """The decoder whose tensors come by name, in any order; names without a place are passed over.

    Args:
      config: the architecture.
      fmt: whose names they are.
      tensors: `(name, array)`, all that `expected_tensors` lists.
      dtype: of every weight, whatever the tensors hold.
      mesh: devices to spread the weights over.
    """
    rooms = {
        path: make_room(path, jax.ShapeDtypeStruct(leaf.shape, dtype), mesh)
        for path, leaf in _shapes(config).items()
    }
    goals = places(config, fmt)
    for name, tensor in tensors:
        for place in goals.get(name, ()):
            part = _decoder_order(tensor, place.row, fmt, config)
            rooms[place.path].write(part, place.index)
    return from_parameters(config, {path: room.done() for path, room in rooms.items()}, dtype)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """`rows` `[heads * e, ...]` as GGUF files order them: a head's halves, alternating."""
    return _swap(rows, heads, 2, rows.shape[0] // heads // 2)


def deinterleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """`rows` `[heads * e, ...]` of a GGUF file, a head's two halves one after the other."""
    return _swap(rows, heads, rows.shape[0] // heads // 2, 2)


def _swap(rows: np.ndarray, heads: int, outer: int, inner: int) -> np.ndarray:
    return rows.reshape(heads, outer, inner, -1).swapaxes(1, 2).reshape(rows.shape)


def _decoder_order(tensor: np.ndarray, row: Row, fmt: Format, config: Config) -> np.ndarray:
    if fmt == "gguf" and row.interleaved:
        tensor = deinterleave(tensor, getattr(config, row.interleaved))
    tensor = tensor.T if row.transposed else tensor
    return tensor if row.fused is None else cut(tensor, row.fused, row.part, config)


def cut(tensor: np.ndarray, fused: Fused, part: str, config: Config) -> np.ndarray:
    """One map `[..., out]` of several that lie along the last axis of a tensor."""
    widths = [config.map_shape(name)[1] for name in fused.maps]
    at = fused.maps.index(part)
    if fused.by_head:
        heads = tensor.reshape(*tensor.shape[:-1], config.n_heads, len(widths), config.d_head)
        return heads[..., at, :].reshape(*tensor.shape[:-1], widths[at])
    start = sum(widths[:at])
    return tensor[..., start : start + widths[at]]


def _file_shape(parts: list[Place], shapes: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor in a file, from those of the weights that lie in it."""
    each = [shapes[place.path].shape[len(place.index) :] for place in parts]
    shape = (*each[0][:-1], sum(one[-1] for one in each)) if parts[0].row.fused else each[0]
    return shape[::-1] if parts[0].row.transposed else shape


@functools.lru_cache(maxsize=4)
def _shapes(config: Config) -> Mapping[str, Any]:
    """`parameter_shapes`, which takes longer to trace than a small file to read, once a config."""
    return parameter_shapes(config)


def _indices(path: str, config: Config) -> Iterator[Index]:
    if not path.startswith("blocks."):
        yield ()
        return
    each_expert = re.fullmatch(r"blocks\.experts\.(gate|up|down)", path)
    for layer in range(config.n_layers):
        if each_expert and config.experts is not None:
            yield from ((layer, expert) for expert in range(config.experts.n_experts))
        else:
            yield (layer,)


def some(names: list[str], limit: int = 8) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
