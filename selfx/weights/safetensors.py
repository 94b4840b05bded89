"""Hugging Face folders: config, and safetensors read layer by layer without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors looks up)
import numpy as np
from safetensors import SafetensorError, safe_open

from selfx.errors import SelfxError
from selfx.files import read_json
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.zoo import config_from_hf
from selfx.weights.layout import assemble, check_tensors, expected_tensors

_FLOATS = ("F32", "F16", "BF16", "F64")


def folder_config(path: Path) -> Config:
    """The architecture that a folder's `config.json` declares.

    Raises:
      SelfxError: there is none, or it does not describe a model that can be run.
    """
    file = path / "config.json"
    if not file.is_file():
        raise SelfxError(
            f"no config.json in {path}",
            expected="a folder as saved by transformers, or a .gguf file",
            hint=_other_files(path),
        )
    source = read_object(file)
    try:
        return config_from_hf(source)
    except SelfxError as error:
        raise SelfxError(
            f"{path}: {error.got}", expected=error.expected, hint=error.hint
        ) from error


def folder_weights(path: Path, config: Config, dtype: Any) -> Decoder:
    """The decoder of a folder; one stacked weight in memory at a time besides the result.

    Raises:
      SelfxError: tensors that are missing, unexpected or of another shape; a damaged file.
    """
    with contextlib.ExitStack() as stack:
        files = {file: stack.enter_context(_opened(file)) for file in _shards(path)}
        places = {name: file for file, handle in files.items() for name in _names(handle)}
        found = {name: _shape(file, files[file], name) for name, file in places.items()}
        found = {name: shape for name, shape in found.items() if not _recomputed(name)}
        head = {"lm_head.weight": (config.vocab_size, config.d_model)}
        optional = head if config.tied else None
        check_tensors(found, expected_tensors(config, "hf"), str(path), optional)
        return assemble(
            config, "hf", lambda name: _read(places[name], files[places[name]], name), dtype
        )


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      SelfxError: it is missing, or holds none.
    """
    content = read_json(file, hint="fetch the folder again: it is damaged or incomplete")
    if not isinstance(content, dict):
        raise SelfxError(f"{file} holds a {type(content).__name__}", expected="a JSON object")
    return content


def _other_files(path: Path) -> str:
    found = sorted(path.glob("*.gguf"))
    return f"give the file, {found[0]}" if found else "give the folder that holds config.json"


def _shards(path: Path) -> list[Path]:
    """The files that hold the weights, all of them there."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise SelfxError(
            f"no weights in {path}",
            expected="model.safetensors, or model.safetensors.index.json and its shards",
            hint="a folder of .bin files must first be saved as safetensors",
        )
    table = read_object(index).get("weight_map")
    if not isinstance(table, Mapping) or not table:
        raise SelfxError(f"{index} has no weight_map", expected="{tensor: file}")
    names = sorted({str(name) for name in table.values()})
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise SelfxError(
            f"{path} lacks shards: {', '.join(missing)}",
            expected=f"the {len(names)} files that {index.name} names",
            hint="fetch the folder again: the download stopped half way",
        )
    return [path / name for name in names]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    with _named(file), safe_open(file, framework="numpy") as handle:
        yield handle


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """Errors of the safetensors library become errors that name the file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise SelfxError(
            f"{file} is not a readable safetensors file: {error}",
            expected="a whole safetensors file",
            hint="fetch it again: it is damaged, cut short, or something else",
        ) from error


def _names(handle: Any) -> list[str]:
    return list(handle.keys())


def _shape(file: Path, handle: Any, name: str) -> tuple[int, ...]:
    view = handle.get_slice(name)
    if view.get_dtype() not in _FLOATS:
        raise SelfxError(
            f"{file}: {name} is stored as {view.get_dtype()}",
            expected=f"one of {', '.join(_FLOATS)}",
            hint="use weights that are not quantised, or a .gguf file",
        )
    return tuple(view.get_shape())


def _read(file: Path, handle: Any, name: str) -> np.ndarray:
    with _named(file):
        return handle.get_tensor(name)


def _recomputed(name: str) -> bool:
    """Whether a tensor holds rotary frequencies, which old files keep and the config gives."""
    return name.endswith("rotary_emb.inv_freq")
