"""Writing that a kill cannot spoil: a file is whole or absent, never half."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises:
      SelfxError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _settle(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the file's text, or leaves it as it was."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replaces the file by `value` as indented JSON, or leaves it as it was."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, hint: str = "") -> Any:
    """What a JSON file holds.

    Raises:
      SelfxError: it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SelfxError(f"no file {path}", hint=hint) from None
    except (ValueError, OSError) as error:
        raise SelfxError(f"{path} cannot be read: {error}", expected="JSON", hint=hint) from error


def unwritable(path: Path, error: OSError) -> SelfxError:
    """The error to raise where writing `path` failed."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = "the disk is full" if full else (error.strerror or str(error))
    hint = "free some space and run the same command again" if full else "choose another --out"
    return SelfxError(f"cannot write {path}: {why}", hint=hint)


def _settle(temporary: Path, path: Path) -> None:
    """Makes the temporary file durable, then gives it its name."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
