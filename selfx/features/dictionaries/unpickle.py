"""Reading what torch or pickle wrote, without torch, and without running anything that is in it.

A pickle is a program: it names functions and calls them. Here a name means one of the few stand-ins
of `rebuild.py`, which make NumPy arrays and plain values, or the file is refused.
Nothing is imported because a file says so, and nothing of the file's choice is called.

    archive (torch >= 1.6)     a zip: data.pkl, and a member of raw bytes for every storage
    legacy (torch < 1.6, and   three pickles of preamble, the object, the storages' keys, then their
      tensors inside pickles)  raw bytes, each with its length before it
    plain                      one pickle
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.rebuild import STAND_INS, STORAGES, Call, Refused, Storage, settled

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a legacy file
_PROTOCOL = 1001
_MALFORMED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,  # numbers out of range
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,  # an encrypted member
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_pickle(path: Path) -> Any:
    """What a `.pt`, `.pth` or `.pkl` file holds: plain values, and a NumPy array for every tensor.

    Raises:
      SelfxError: it cannot be read, or holds anything but data.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return settled(_value(file))
    except Refused as error:
        raise SelfxError(
            f"{path} is not only data: it asks for {error}",
            expected="tensors and plain values; nothing else in a pickle is ever run here",
            hint="have whoever wrote it save a state dict, or better, safetensors",
        ) from error
    except OSError as error:
        raise SelfxError(f"{path} cannot be read: {error.strerror or error}") from error
    except _MALFORMED as error:
        raise SelfxError(
            f"{path} cannot be read: {error or type(error).__name__}",
            expected="a file that torch or pickle wrote",
            hint="download it again; a file of a few hundred bytes is a pointer of Git LFS",
        ) from error


def read_state(path: Path) -> dict[str, np.ndarray]:
    """`{name: array}` of a file that holds a state dict.

    Raises:
      SelfxError: as `read_pickle`; or it holds something else.
    """
    value = read_pickle(path)
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SelfxError(f"{path} holds a {type(value).__name__}", expected="tensors by name")
    numbers = np.ndarray | int | float
    return {name: np.asarray(v) for name, v in value.items() if isinstance(v, numbers)}


def _value(file: Any) -> Any:
    """What an open file holds, in whichever of the three forms, tensors still to be made."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return _archived(archive)
    file.seek(0)
    return _plain_or_legacy(file)


def _archived(archive: zipfile.ZipFile) -> Any:
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise ValueError(f"an archive with {len(names)} data.pkl")
    stem = names[0].removesuffix("data.pkl")
    order = "<"
    if f"{stem}byteorder" in archive.namelist():
        order = ">" if _member(archive, f"{stem}byteorder") == b"big" else "<"
    storages: dict[str, Storage] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        if key not in storages:
            storages[key] = Storage.of(_member(archive, f"{stem}data/{key}"), kind, order)
        return storages[key]

    source = io.BytesIO(_member(archive, names[0]))
    return _Reader(source, storage).load()


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one file in an archive; a packed one may be of any size, so it is refused."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name!r} is compressed, which torch never does")
    return archive.read(info)


def _plain_or_legacy(file: Any) -> Any:
    first = _Reader(file, _no_storage).load()
    if isinstance(first, int) and first == _MAGIC:
        return _legacy(file)
    return first


def _legacy(file: Any) -> Any:
    """The object of a legacy file, whose preamble's first part is read already."""
    protocol, system = (_Reader(file, _no_storage).load() for _ in range(2))
    if protocol != _PROTOCOL or not isinstance(system, dict):
        raise ValueError(f"version {protocol!r} of torch's old format")
    order = "<" if system.get("little_endian", True) else ">"
    storages: dict[str, Storage] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        return storages.setdefault(key, Storage(kind, order, count))

    value = _Reader(file, storage).load()
    for key in _Reader(file, _no_storage).load():
        (count,) = struct.unpack(f"{order}q", file.read(8))
        storages[key].fill(file.read(count * storages[key].dtype.itemsize))
    return value


def _no_storage(kind: str, key: str, count: int) -> Storage:
    raise Refused("a storage of tensors outside a file of torch's")


def _nested(data: Any) -> Any:
    """What a tensor's storage inside a plain pickle is: a whole file of torch's, as bytes."""
    if not isinstance(data, bytes):
        raise Refused(f"a storage made of a {type(data).__name__}")
    return _value(io.BytesIO(data))


class _Reader(pickle.Unpickler):
    """An unpickler that knows stand-ins only."""

    def __init__(self, file: Any, storage: Callable[[str, str, int], Storage]):
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; there is no other."""
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return Call(_nested)
        if module == "torch" and name in STORAGES:
            return name
        if (module, name) not in STAND_INS:
            raise Refused(f"{module}.{name}")
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a tensor is a view of."""
        tag, kind, key, _, count, *view = pid
        if tag != "storage" or kind not in STORAGES or not isinstance(key, str) or any(view):
            raise Refused(f"the object {str(pid)[:80]!r} outside the pickle")
        return self.storage(kind, key, int(count))
