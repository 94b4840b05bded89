"""Hugging Face folders: config, and safetensors mapped file by file, without torch."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from selfx.errors import SelfxError
from selfx.files import read_json
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.zoo import config_from_hf
from selfx.weights.layout import assemble, differences, expected_tensors, misfit, some
from selfx.weights.tables import LAYOUTS, Layout

_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


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


def folder_weights(
    path: Path, config: Config, dtype: Any, mesh: jax.sharding.Mesh | None = None
) -> Decoder:
    """The decoder of a folder, spread over `mesh` if one is given.

    Nothing is allocated before every file is found to hold what it should. Then files are mapped
    one after the other, and no tensor is copied before it is written to its place.

    Raises:
      SelfxError: as `check_folder`.
    """
    tensors = _contents(check_folder(path, config), LAYOUTS[config.family])
    return assemble(config, "hf", tensors, dtype, mesh)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: its name there, its type by the format's name, its shape, its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


Headers = dict[Path, list[Stored]]


def check_folder(path: Path, config: Config) -> Headers:
    """What each of a folder's files of weights holds, found to fit the config.

    Raises:
      SelfxError: all that is wrong in one message: files that are absent or unreadable; tensors
        that are missing, unexpected, of another shape, quantised, or there twice; an index that
        does not tell the truth.
    """
    files, claims = _shards(path)
    headers, lines = _headers(path, files)
    layout, found = LAYOUTS[config.family], {}
    holders: dict[str, list[str]] = defaultdict(list)
    for file, tensors in headers.items():
        for tensor in tensors:
            own = layout.canonical(tensor.name)
            if own is not None:
                found[own] = tensor.shape
                holders[own].append(file.name)
    unread = {file.name for file in files} - {file.name for file in headers}
    lies_in = {layout.canonical(name): file for name, file in claims.items()}
    expected = {
        name: shape
        for name, shape in expected_tensors(config, "hf").items()
        if lies_in.get(name, files[0].name) not in unread  # those files are spoken of already
    }
    lines += _untrue(claims, headers, unread)
    lines += _twice(holders)
    lines += _quantised(headers, layout)
    unfit = differences(found, expected, _tied_head(config))
    if unfit:
        raise misfit(str(path), [*unfit, *lines], len(expected))
    if lines:
        raise SelfxError(
            "\n  ".join([f"the weights of {path} cannot be read", *lines]),
            expected=f"whole safetensors files, each tensor once, as {', '.join(_FLOATS)}",
            hint="fetch the folder again; of a quantised model take the original, or a .gguf file",
        )
    return headers


def _headers(path: Path, files: list[Path]) -> tuple[Headers, list[str]]:
    """What the files that can be read hold, and a line for those that cannot."""
    absent = [file.name for file in files if not file.is_file()]
    headers, lines = {}, [f"{path} lacks shards: {some(absent)}"] if absent else []
    for file in files:
        try:
            if file.name not in absent:
                headers[file] = _header(file)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            lines.append(f"{file} is not a readable safetensors file: {error}")
    return headers, lines


def _header(file: Path) -> list[Stored]:
    """The tensors of a file. The library checks that the header is sound and the file as long."""
    with safe_open(file, framework="numpy"):
        pass
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    start = 8 + size
    return [
        Stored(name, of["dtype"], tuple(of["shape"]), *(start + n for n in of["data_offsets"]))
        for name, of in header.items()
        if name != "__metadata__"
    ]


def _untrue(claims: Mapping[str, str], headers: Headers, unread: Container[str]) -> list[str]:
    """A line if the index puts tensors into files that do not hold them."""
    held = {(file.name, tensor.name) for file, tensors in headers.items() for tensor in tensors}
    wrong = [
        f"{name} in {file}"
        for name, file in sorted(claims.items())
        if file not in unread and (file, name) not in held
    ]
    return [f"in the index alone: {some(wrong)}"] if wrong else []


def _twice(holders: Mapping[str, list[str]]) -> list[str]:
    twice = [f"{name} in {' and '.join(at)}" for name, at in sorted(holders.items()) if at[1:]]
    return [f"there twice: {some(twice)}"] if twice else []


def _quantised(headers: Headers, layout: Layout) -> list[str]:
    """A line for each type of number that tensors are stored in and that is no plain float."""
    odd: dict[str, list[str]] = defaultdict(list)
    for tensors in headers.values():
        for tensor in tensors:
            if tensor.dtype not in _FLOATS and layout.canonical(tensor.name) is not None:
                odd[tensor.dtype].append(tensor.name)
    return [f"stored as {dtype}: {some(sorted(names))}" for dtype, names in sorted(odd.items())]


def _tied_head(config: Config) -> dict[str, tuple[int, ...]]:
    """A head that a file may hold though it is the embedding; it is passed over."""
    if not config.tied:
        return {}
    return {LAYOUTS[config.family].table["unembed.w"].hf: (config.vocab_size, config.d_model)}


def _contents(headers: Headers, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by its canonical name, as it lies in its file."""
    for file, tensors in headers.items():
        try:
            mapped = np.memmap(file, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise SelfxError(
                f"cannot read {file}: {error}", hint="run the command again"
            ) from error
        for tensor in tensors:
            own = layout.canonical(tensor.name)
            if own is not None:
                values = mapped[tensor.start : tensor.stop].view(_FLOATS[tensor.dtype])
                yield own, values.reshape(tensor.shape).view(np.ndarray)


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


def _shards(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that should hold the weights, and the index, `{tensor: file}`, if there is one."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        return [single], {}
    if not index.is_file():
        raise SelfxError(
            f"no weights in {path}",
            expected="model.safetensors, or model.safetensors.index.json and its shards",
            hint="a folder of .bin files must first be saved as safetensors",
        )
    table = read_object(index).get("weight_map")
    if not isinstance(table, Mapping) or not table:
        raise SelfxError(f"{index} has no weight_map", expected="{tensor: file}")
    claims = {str(name): str(file) for name, file in table.items()}
    return [path / name for name in sorted(set(claims.values()))], claims
