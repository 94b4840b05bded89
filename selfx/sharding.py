"""Meshes and where arrays live on them: the only file that knows devices.

Models know nothing of it. A rule is a pattern over a parameter's path and the mesh axis for each of
its array axes; the first rule that matches decides.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from selfx.errors import SelfxError
from selfx.models.parameters import parameter_path

Spec = tuple[str | None, ...]
Bounds = tuple[tuple[int, int], ...]

_STRIP = 16  # columns; the fastest of 8, 16, 32, 64 and 128 for float32 and bfloat16

RULES: tuple[tuple[str, Spec], ...] = (
    (r"\.(q|k|v|gate|up)\.w", (None, None, "model")),  # [l, d, out]: split the heads or neurons
    (r"\.(o|down)\.w", (None, "model", None)),  # [l, in, d]: sum over the parts
    (r"\.(q|k|v|gate|up)\.b", (None, "model")),
    (r"experts\.(gate|up|down)\b", (None, "model", None, None)),  # [l, x, in, out]: split experts
    (r"unembed\.w", (None, "model")),  # [d, v]: split the vocabulary
    (r"embed$", ("model", None)),  # [v, d]
)


def make_mesh(data: int = -1, model: int = 1, devices: Any = None) -> Mesh:
    """A mesh of `data` × `model` devices; -1 takes all that are left.

    Raises:
      SelfxError: the devices do not divide so.
    """
    devices = jax.devices() if devices is None else devices
    data = len(devices) // model if data == -1 else data
    if data * model > len(devices) or data < 1:
        raise SelfxError(
            f"a mesh of {data} x {model}", expected=f"at most {len(devices)} devices in all"
        )
    used = devices[: data * model]
    return jax.make_mesh(
        (data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=used
    )


def shard(tree: Any, mesh: Mesh) -> Any:
    """The same tree of parameters with every leaf laid out on the mesh by `RULES`.

    An axis that its mesh axis does not divide is kept whole on every device.
    """

    def place(path: Any, leaf: Any) -> Any:
        return jax.device_put(leaf, sharding_of(parameter_path(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def sharding_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """How `RULES` lay out the weight at `path`, a name in `parameter_shapes`, on the mesh."""
    return NamedSharding(mesh, PartitionSpec(*spec_of(path, shape, mesh.shape)))


def spec_of(path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> Spec:
    """The mesh axis of each axis of the weight at `path`; None where it is kept whole.

    Args:
      path: a name in `selfx.models.parameters.parameter_shapes`.
      shape: of the weight.
      sizes: `{mesh axis: devices along it}`; no device is asked, so the mesh need not exist.
    """
    return tuple(
        axis if axis and size % sizes[axis] == 0 else None
        for axis, size in zip(rule_of(path, shape), shape, strict=True)
    )


def rule_of(path: str, shape: tuple[int, ...]) -> Spec:
    """What `RULES` ask for the weight at `path`, whether its axes divide or not."""
    for pattern, axes in RULES:
        if re.search(pattern, path) and len(shape) == len(axes):
            return axes
    return (None,) * len(shape)


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """The same tree with every array's first axis split over the mesh's `data` axis."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def make_room(path: str, leaf: jax.ShapeDtypeStruct, mesh: Mesh | None) -> HostRoom | DeviceRoom:
    """Room for the weight at `path` where it will live: spread by `RULES`, or whole without a mesh.

    Made part by part it is never held twice, on the host or on a device.
    """
    sharding = None if mesh is None else sharding_of(path, leaf.shape, mesh)
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return (HostRoom if platform == "cpu" else DeviceRoom)(leaf, sharding)


class HostRoom:
    """A weight in the host's own memory, which JAX takes over uncopied once it is written."""

    def __init__(self, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding | None):
        self.shape, self.sharding = leaf.shape, sharding
        whole = tuple((0, size) for size in leaf.shape)
        self.bounds = {None: whole} if sharding is None else _bounds(sharding, leaf.shape)
        self.shards = {
            bounds: _aligned(tuple(high - low for low, high in bounds), leaf.dtype)
            for bounds in set(self.bounds.values())
        }

    def write(self, part: np.ndarray, index: tuple[int, ...]) -> None:
        """Puts `part` at the leading `index` of every shard that holds a piece of it."""
        for bounds, shard in self.shards.items():
            lead, rest = bounds[: len(index)], bounds[len(index) :]
            if all(low <= i < high for i, (low, high) in zip(index, lead, strict=True)):
                at = tuple(i - low for i, (low, _) in zip(index, lead, strict=True))
                _copy(shard[at], part[tuple(slice(*bound) for bound in rest)])

    def done(self) -> jax.Array:
        """The weight."""
        if self.sharding is None:
            return jax.device_put(next(iter(self.shards.values())))
        each = [jax.device_put(self.shards[at], device) for device, at in self.bounds.items()]
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, each)


class DeviceRoom:
    """A weight in the memory of accelerators, zeros until its parts are written in place."""

    def __init__(self, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding | None):
        self.sharding = sharding
        self.whole = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)

    def write(self, part: np.ndarray, index: tuple[int, ...]) -> None:
        """Puts `part` at the leading `index`; sent as it lies in the file, turned on the device.

        The weight's part before it has arrived by then: the host is never far ahead of the devices.
        """
        if part.dtype.itemsize > self.whole.dtype.itemsize:
            part = part.astype(self.whole.dtype)
        turned = part.ndim == 2 and part.T.flags.c_contiguous
        part = np.ascontiguousarray(part.T if turned else part)
        self.whole.block_until_ready()
        sent = jax.device_put(part, self._of_part(len(index), turned))
        self.whole = _write(self.whole, sent, index, turned=turned)

    def _of_part(self, lead: int, turned: bool) -> NamedSharding | None:
        if self.sharding is None:
            return None
        spec = tuple(self.sharding.spec)[lead:]
        return NamedSharding(self.sharding.mesh, PartitionSpec(*(spec[::-1] if turned else spec)))

    def done(self) -> jax.Array:
        """The weight."""
        return self.whole


@functools.partial(jax.jit, donate_argnums=0, static_argnames="turned")
def _write(whole: jax.Array, part: jax.Array, index: tuple[int, ...], *, turned: bool) -> jax.Array:
    """`whole` with `part` (its transpose if turned) at the leading `index`, in place."""
    part = (part.T if turned else part).astype(whole.dtype)
    start = (*index, *(0,) * part.ndim)
    return jax.lax.dynamic_update_slice(whole, part.reshape((1,) * len(index) + part.shape), start)


def _bounds(sharding: NamedSharding, shape: tuple[int, ...]) -> dict[Any, Bounds]:
    """`{device: first and last index along each axis}` of what each device of this host holds."""
    held = sharding.addressable_devices_indices_map(shape)
    return {
        device: tuple(
            part.indices(size)[:2] for part, size in zip(slices or (), shape, strict=True)
        )
        for device, slices in held.items()
    }


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros from a multiple of 64 bytes on, which JAX can use without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    # Not np.empty: it asks for huge pages, and the kernel may take seconds to gather them.
    raw = np.frombuffer(bytearray(size + 64), np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _copy(into: np.ndarray, part: np.ndarray) -> None:
    """Writes `part`; a transposed one in strips that stay in the cache, several times faster."""
    if part.ndim != 2 or part.flags.c_contiguous:
        into[...] = part
        return
    for start in range(0, part.shape[1], _STRIP):
        strip = slice(start, start + _STRIP)
        into[:, strip] = part[:, strip].astype(into.dtype, copy=False)
