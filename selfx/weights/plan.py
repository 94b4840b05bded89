"""What a model will take before any of it is there: parameters, bytes, and who holds what.

Everything follows from the config: shapes are traced, not allocated, and the mesh is two numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from rich.console import Group, RenderableType
from rich.table import Table

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.parameters import parameter_shapes
from selfx.models.zoo import config_from_hf
from selfx.sharding import Spec, rule_of, spec_of
from selfx.weights.fetch import PACKAGED, resolve
from selfx.weights.gguf import gguf_config, open_gguf
from selfx.weights.hub import from_hub, is_hub_id
from selfx.weights.layout import expected_tensors
from selfx.weights.load import checked_dtype
from selfx.weights.safetensors import folder_config, read_object
from selfx.weights.tables import LAYOUTS

_EMBEDDINGS = ("embed", "places", "unembed.w")
_ADAM = 4  # arrays as large as the adapters: themselves, their gradient, and two moments


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight, all layers together.

    Attributes:
      path: its name in `selfx.models.parameters.parameter_shapes`.
      shape: of the whole.
      dtype: what it is held in.
      spec: the mesh axis of each of its axes, None where it is not split.
      unsplit: axes that the rules would split, but whose length the mesh axis does not divide.
      device_bytes: on each device.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: Spec
    unsplit: tuple[int, ...]
    device_bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a model takes; bytes throughout, and per device where the name says so.

    Attributes:
      name: what was asked about.
      family: its architecture.
      dtype: what the weights are to be held in.
      mesh: `{"data": devices, "model": devices}`.
      parameters: all of them, a tied head once.
      embedding_parameters: those of embedding, learned positions and head.
      active_parameters: those that one token goes through: of experts only the chosen.
      weight_bytes: of all weights, once.
      device_bytes: of the weights that each device holds.
      cache_bytes: of keys and values for 1,000 tokens of one row.
      rank: of the adapters that the next two are about.
      adapter_parameters: of LoRA adapters on every linear map.
      training_bytes: of those in float32, their gradient and AdamW's two moments.
      largest_file_bytes: of the files of weights, where they or their index are at hand.
      loading_bytes: what the host holds at most while loading, beyond weights of its own: the
        largest file, mapped, and a layer or the embedding.
      weights: the table.
    """

    name: str
    family: str
    dtype: str
    mesh: Mapping[str, int]
    parameters: int
    embedding_parameters: int
    active_parameters: int
    weight_bytes: int
    device_bytes: int
    cache_bytes: int
    rank: int
    adapter_parameters: int
    training_bytes: int
    largest_file_bytes: int | None
    loading_bytes: int | None
    weights: tuple[Weight, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return dataclasses.asdict(self)

    def __rich__(self) -> RenderableType:
        return Group(_summary(self), _weights(self), *_remarks(self))


def plan(
    name: str | Path,
    *,
    dtype: Any = jnp.float32,
    mesh_shape: tuple[int, int] = (1, 1),
    rank: int = 16,
) -> Plan:
    """What the model called `name` takes, from its config alone; nothing is allocated.

    Args:
      name: as `selfx.load` takes it, or the path of a `config.json`. A folder needs to hold no
        more than that, and of a hub model no more is fetched.
      dtype: of the weights.
      mesh_shape: `(data, model)`, of any size: no device is needed.
      rank: of the adapters whose training is counted.

    Raises:
      SelfxError: it cannot be found or is not known; numbers below 1.
    """
    if len(mesh_shape) != 2 or any(n < 1 for n in (*mesh_shape, rank)):
        raise SelfxError(
            f"a mesh of {' x '.join(map(str, mesh_shape))} and rank {rank}",
            expected="two numbers of devices, data and model, and a rank, from 1 on",
        )
    config, folder = _config(str(name))
    dtype, mesh = checked_dtype(dtype), dict(zip(("data", "model"), mesh_shape, strict=True))
    shapes = parameter_shapes(config, dtype)
    weights = tuple(_weight(path, leaf, mesh) for path, leaf in shapes.items())
    sizes = {weight.path: math.prod(weight.shape) for weight in weights}
    n, width = sum(sizes.values()), dtype.itemsize
    adapters = rank * config.n_layers * sum(sum(config.map_shape(m)) for m in config.maps)
    file = _largest_file(folder, config)
    layer = sum(size for path, size in sizes.items() if path.startswith("blocks."))
    step = width * max(layer // config.n_layers, sizes["embed"])
    return Plan(
        name=str(name),
        family=config.family,
        dtype=dtype.name,
        mesh=mesh,
        parameters=n,
        embedding_parameters=sum(sizes.get(path, 0) for path in _EMBEDDINGS),
        active_parameters=n - _asleep(config, sizes),
        weight_bytes=n * width,
        device_bytes=sum(weight.device_bytes for weight in weights),
        cache_bytes=1000 * 2 * config.n_layers * config.n_kv_heads * config.d_head * width,
        rank=rank,
        adapter_parameters=adapters,
        training_bytes=adapters * 4 * _ADAM,
        largest_file_bytes=file,
        loading_bytes=None if file is None else file + step,
        weights=weights,
    )


def _config(name: str) -> tuple[Config, Path]:
    """The architecture of a model, and the folder or file where more may be known of it."""
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        try:
            return config_from_hf(read_object(path)), path.parent
        except SelfxError as error:
            got = error.got if str(path) in error.got else f"{path}: {error.got}"
            raise SelfxError(got, expected=error.expected, hint=error.hint) from error
    if name not in PACKAGED and not path.exists() and is_hub_id(name):
        path = from_hub(name, ("config.json", "*.safetensors.index.json"))
    else:
        path = resolve(name)
    if path.is_dir():
        return folder_config(path), path
    return gguf_config(open_gguf(path)), path


def _weight(path: str, leaf: Any, mesh: Mapping[str, int]) -> Weight:
    wanted, spec = rule_of(path, leaf.shape), spec_of(path, leaf.shape, mesh)
    parts = math.prod(mesh[axis] for axis in spec if axis)
    unsplit = tuple(i for i, axis in enumerate(wanted) if axis and spec[i] is None)
    held = leaf.size * leaf.dtype.itemsize // parts
    return Weight(path, leaf.shape, leaf.dtype.name, spec, unsplit, held)


def _asleep(config: Config, sizes: Mapping[str, int]) -> int:
    """Parameters of the experts that a token is not sent to."""
    if config.experts is None:
        return 0
    every = sum(sizes[f"blocks.experts.{name}"] for name in ("gate", "up", "down"))
    return every // config.experts.n_experts * (config.experts.n_experts - config.experts.n_chosen)


def _largest_file(folder: Path, config: Config) -> int | None:
    """Bytes of the largest file of weights: as it is on disk, or as the index lets one reckon."""
    if folder.is_file():
        return folder.stat().st_size
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
        return max(sizes, default=None)
    return _largest_in_index(folder, read_object(index), config)


def _largest_in_index(folder: Path, index: Mapping[str, Any], config: Config) -> int | None:
    """The same from an index: files that are not here get their tensors' share of the total."""
    claims, about = index.get("weight_map"), index.get("metadata")
    total = about.get("total_size") if isinstance(about, Mapping) else None
    if not isinstance(claims, Mapping) or not claims or not isinstance(total, int | float):
        return None
    layout, shapes = LAYOUTS[config.family], expected_tensors(config, "hf")
    numbers: Counter[str] = Counter()
    for name, file in claims.items():
        numbers[str(file)] += math.prod(shapes.get(layout.canonical(str(name)) or "", (0,)))
    width = total / max(1, numbers.total())
    here = {file: folder / file for file in numbers}
    return max(
        path.stat().st_size if path.is_file() else round(width * numbers[file])
        for file, path in here.items()
    )


def _summary(plan: Plan) -> Table:
    """The numbers that decide whether it fits."""
    table = Table(title=f"{plan.name}: {plan.family} in {plan.dtype}", show_header=False)
    devices = plan.mesh["data"] * plan.mesh["model"]
    shape = f"{plan.mesh['data']} data x {plan.mesh['model']} model"
    active = plan.active_parameters
    rows = {
        "parameters": f"{plan.parameters:,}",
        "  of embeddings and head": f"{plan.embedding_parameters:,}",
        "  active for one token": f"{active:,}" if active < plan.parameters else "",
        "weights": _size(plan.weight_bytes),
        f"  each of {devices} devices, {shape}": _size(plan.device_bytes) if devices > 1 else "",
        "keys and values, 1,000 tokens": _size(plan.cache_bytes),
        f"LoRA of rank {plan.rank}": f"{plan.adapter_parameters:,} parameters",
        "  trained with AdamW, float32": _size(plan.training_bytes),
        "largest file": "" if plan.largest_file_bytes is None else _size(plan.largest_file_bytes),
        "  host while loading, at most": "" if plan.loading_bytes is None else _loading(plan),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _loading(plan: Plan) -> str:
    return f"{_size(plan.loading_bytes or 0)} beyond the weights that it holds itself"


def _weights(plan: Plan) -> Table:
    table = Table("weight", "shape", "split", "each device")
    for weight in plan.weights:
        axes = [f"axis {i} over {axis}" for i, axis in enumerate(weight.spec) if axis]
        shape = " x ".join(f"{n:,}" for n in weight.shape)
        table.add_row(weight.path, shape, ", ".join(axes) or "-", _size(weight.device_bytes))
    return table


def _remarks(plan: Plan) -> list[str]:
    """What is whole on every device although the rules would split it."""
    return [
        f"{weight.path} stays whole: {plan.mesh['model']} devices do not divide its axis of "
        f"{', '.join(f'{weight.shape[axis]:,}' for axis in weight.unsplit)}"
        for weight in plan.weights
        if weight.unsplit
    ]


def _size(n: float) -> str:
    """Bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.2f} GB"
