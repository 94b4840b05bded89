"""A model's fingerprint, which travels with every record made from it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from selfx.errors import SelfxError


def weights_hash(path: str | Path) -> str:
    """SHA-256, in hex, of a model: of a GGUF file, or of a folder's config and safetensors.

    Each file is read once a process, and again only if its size or time changes.
    """
    path = Path(path)
    if path.is_file():
        return file_hash(path)
    files = [path / "config.json", *sorted(path.glob("*.safetensors"))]
    if len(files) == 1:
        raise SelfxError(
            f"no weights in {path}", expected="a GGUF file, or a folder of safetensors"
        )
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{file_hash(file)}\n".encode())
    return whole.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256, in hex, of one file.

    Raises:
      SelfxError: the file cannot be read.
    """
    try:
        status = path.stat()
        return _stream(path.resolve(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise SelfxError(f"cannot read {path}: {error.strerror}") from error


@functools.lru_cache(maxsize=256)
def _stream(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
