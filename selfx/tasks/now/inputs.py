"""Vectors from files, and from dictionaries of features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import Sae
from selfx.tasks.now.asked import Desk


@dataclasses.dataclass(frozen=True)
class Feature:
    """A latent of a dictionary.

    Attributes:
      sae: the dictionary.
      index: which of its latents.
      vector: float32 `[1, d]`, what it writes.
    """

    sae: Sae
    index: int
    vector: np.ndarray


def read_feature(spec: str, desk: Desk) -> Feature:
    """The feature `DICTIONARY:INDEX`.

    Raises:
      SelfxError: no such dictionary or latent, or one of another width or depth than the target.
    """
    place, colon, number = spec.rpartition(":")
    if not colon or not number.isdecimal():
        raise SelfxError(f"--feature {spec!r}", expected="DICTIONARY:INDEX, such as runs/sae:17")
    sae = _loaded(place, desk)
    count, index = sae.b_enc.shape[0], int(number)
    if index >= count:
        raise SelfxError(f"feature {index} of {place}", expected=f"0 to {count - 1}")
    vector = np.asarray(sae.w_dec[index], np.float32)[None]
    if vector.shape[1] != desk.width:
        raise SelfxError(
            f"{place}, a dictionary of width {vector.shape[1]}",
            expected=f"{desk.width}, the width of the target",
        )
    desk.check_layers([sae.layer])
    return Feature(sae, index, vector)


def read_vector(spec: str, width: int) -> np.ndarray:
    """float32 `[1, d]`: the vector in `FILE.npy` or `FILE.safetensors[:name]`.

    Raises:
      SelfxError: it cannot be read, or is no vector of this width, or of no use.
    """
    array = _array(spec)
    if array.dtype.kind not in "fiuV":
        raise SelfxError(f"{spec} holds {array.dtype}", expected="numbers")
    vector = np.asarray(array, np.float32)
    if vector.shape not in ((width,), (1, width)):
        raise SelfxError(
            f"{spec} has shape {list(vector.shape)}", expected=f"[{width}], as wide as the target"
        )
    if not np.isfinite(vector).all():
        raise SelfxError(f"{spec} has a number that is not finite", expected="finite numbers")
    if not vector.any():
        raise SelfxError(f"{spec} is all zeros", expected="a direction")
    return vector.reshape(1, width)


def _loaded(place: str, desk: Desk) -> Sae:
    """The dictionary; the target is loaded only if its weights are needed to read it."""
    parts = place.split("/")
    hub = len(parts) > 2 and not Path(place).expanduser().exists()
    name, inside = ("/".join(parts[:2]), "/".join(parts[2:])) if hub else (place, "")
    try:
        return load_sae(name, inside)
    except SelfxError as error:
        if "model=" in error.hint:
            return load_sae(name, inside, model=desk.target.model)
        hint = error.hint.replace("as the second argument", f"as {place}/...:INDEX")
        raise SelfxError(error.got, expected=error.expected, hint=hint) from error


def _array(spec: str) -> Any:
    file, name = _split(spec)
    try:
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        tensors = load_file(file)
    except (OSError, ValueError, EOFError, SafetensorError, TypeError) as error:
        raise SelfxError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    if not name and len(tensors) == 1:
        return next(iter(tensors.values()))
    if name not in tensors:
        raise SelfxError(
            f"tensor {name!r} of {file}" if name else f"{len(tensors)} tensors in {file}",
            expected=f"one of {', '.join(sorted(tensors)[:20])}, as {file.name}:NAME",
        )
    return tensors[name]


def _split(spec: str) -> tuple[Path, str]:
    """The file and the tensor's name, "" for none."""
    file, name = Path(spec).expanduser(), ""
    if file.suffix not in (".npy", ".safetensors"):
        path, _, name = spec.rpartition(":")
        file = Path(path).expanduser()
    if file.suffix not in (".npy", ".safetensors") or (name and file.suffix == ".npy"):
        raise SelfxError(f"--vector {spec!r}", expected="FILE.npy or FILE.safetensors[:name]")
    if not file.is_file():
        raise SelfxError(f"no file {file}", expected="FILE.npy or FILE.safetensors[:name]")
    return file, name
