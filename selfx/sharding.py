"""Meshes and where arrays live on them: the only file that knows devices.

Models know nothing of it. A rule is a pattern over a parameter's path and the mesh axis for each of
its array axes; the first rule that matches decides.
"""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from selfx.errors import SelfxError

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"\.(q|k|v|gate|up)\.w", (None, None, "model")),  # [l, d, out]: split the heads or neurons
    (r"\.(o|down)\.w", (None, "model", None)),  # [l, in, d]: sum over the parts
    (r"\.(q|k|v|gate|up)\.b", (None, "model")),
    (r"unembed\.w", (None, "model")),  # [d, v]: split the vocabulary
    (r"embed", ("model", None)),  # [v, d]
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
        return jax.device_put(
            leaf, NamedSharding(mesh, _spec(jax.tree_util.keystr(path), leaf, mesh))
        )

    return jax.tree_util.tree_map_with_path(place, tree)


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """The same tree with every array's first axis split over the mesh's `data` axis."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def _spec(path: str, leaf: Any, mesh: Mesh) -> PartitionSpec:
    for pattern, axes in RULES:
        if re.search(pattern, path) and leaf.ndim == len(axes):
            fits = (
                a if a and n % mesh.shape[a] == 0 else None
                for a, n in zip(axes, leaf.shape, strict=True)
            )
            return PartitionSpec(*fits)
    return PartitionSpec()
