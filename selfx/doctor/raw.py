"""Tensors straight from safetensors files, by name: header and bytes, no library between.

Format: eight bytes, little endian, of the header's length; the header, a JSON object of
`{name: {dtype, shape, data_offsets}}`; the tensors, row by row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from selfx.errors import SelfxError

_TYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class _Entry:
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


class RawFolder:
    """Every tensor of a folder's safetensors files, mapped into memory and read when asked for."""

    def __init__(self, folder: Path):
        self.entries = {name: entry for file in _files(folder) for name, entry in _header(file)}

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, name: str) -> np.ndarray:
        """The tensor as stored.

        Raises:
          SelfxError: there is none of this name.
        """
        if name not in self.entries:
            raise SelfxError(f"no tensor {name} in the checkpoint")
        entry = self.entries[name]
        return np.memmap(entry.file, entry.dtype, "r", entry.start, entry.shape or (1,))


def _files(folder: Path) -> list[Path]:
    """The files that count: those an index names, if there is no single one."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    return [
        folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))
    ]


def _header(file: Path) -> Iterator[tuple[str, _Entry]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    for name, about in header.items():
        if name == "__metadata__" or about["dtype"] not in _TYPES:
            continue
        start = 8 + length + about["data_offsets"][0]
        yield name, _Entry(file, _TYPES[about["dtype"]], tuple(about["shape"]), start)
