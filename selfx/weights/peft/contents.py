"""The tensors of an adapter's file, each known for what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.weights.layout import expected_tensors, some
from selfx.weights.peft.names import (
    LLAMA_MODULES,
    Matrix,
    Modules,
    heads_of,
    modules_of,
    parse,
)

WEIGHTS = "adapter_model.safetensors"
Place = tuple[int, str]


@dataclasses.dataclass
class Contents:
    """What a file holds.

    Attributes:
      file: the file.
      modules: how the base's modules, or those of Llama that a file may name instead, are made up.
      sides: `{(layer, module): {"A": [r, in], "B": [out, r]}}`.
      names: `{(layer, module): the module's whole name in the file}`.
      saved: `{weight's name in the family's table: tensor}` of weights that are replaced.
      rows: `{embedding's name: (its name in the file, the new values of some rows)}`.
    """

    file: Path
    modules: Modules
    sides: dict[Place, dict[str, np.ndarray]]
    names: dict[Place, str]
    saved: dict[str, np.ndarray]
    rows: dict[str, tuple[str, np.ndarray]]


def read_contents(folder: Path, config: Config | None) -> Contents:
    """What the folder's file of weights holds.

    Raises:
      SelfxError: it is missing, broken, a pickle or empty; a tensor has no place in the model.
    """
    found = Contents(_file(folder), {}, {}, {}, {}, {})
    unknown = []
    for key, tensor in _tensors(found.file):
        what = parse(key, config)
        if isinstance(what, Matrix):
            at = what.layer, what.module
            found.sides.setdefault(at, {})[what.side] = tensor
            found.names[at] = what.whole
        elif what is not None and not _fits(what.name, tensor, bool(what.rows), config):
            unknown.append(f"{key} {list(tensor.shape)}")
        elif what is not None and what.rows:
            found.rows[what.name] = what.rows, tensor
        elif what is not None:
            found.saved[what.name] = tensor
    found.modules = _modules(found, config)
    unknown += [name for at, name in found.names.items() if at[1] not in found.modules]
    if unknown:
        raise SelfxError(
            f"{found.file}: tensors {some(sorted(unknown))}",
            expected="LoRA on known maps only, and weights of the model in its own shapes",
            hint="merge it with PEFT (merge_and_unload), save that model and give its folder",
        )
    if not found.sides and not found.saved and not found.rows:
        raise SelfxError(f"{found.file} holds no tensor", expected="LoRA matrices")
    return found


def _file(folder: Path) -> Path:
    file, pickle = folder / WEIGHTS, folder / "adapter_model.bin"
    if pickle.is_file() and not file.is_file():
        raise SelfxError(
            f"{pickle} is a pickle, which may run code as it is read",
            expected=WEIGHTS,
            hint="in PEFT: PeftModel.from_pretrained(base, folder).save_pretrained(folder)",
        )
    return file


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by its name, in float32."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield key, tensors.get_tensor(key).astype(np.float32, copy=False)
    except (SafetensorError, OSError) as error:
        raise SelfxError(
            f"{file} cannot be read: {error}", hint="fetch it again, or train it again"
        ) from error


def _fits(name: str, tensor: np.ndarray, rows: bool, config: Config | None) -> bool:
    """Whether a tensor may replace the weight of this name, or, `rows`, some rows of it."""
    if config is None:
        return False
    if name in heads_of(config):  # of any number of rows: a vocabulary may have grown
        return tensor.ndim == 2 and tensor.shape[1] == config.d_model
    return not rows and expected_tensors(config, "hf").get(name) == tensor.shape


def _modules(found: Contents, config: Config | None) -> Modules:
    """The base's modules; Llama's, where a file names only such and the base has others."""
    own, named = modules_of(config), {module for _, module in found.sides}
    return LLAMA_MODULES if named - own.keys() and named <= LLAMA_MODULES.keys() else own
