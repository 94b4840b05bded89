"""A checkpoint opened, whatever its format."""

from __future__ import annotations

from pathlib import Path

from selfx.doctor.declared import folder_checkpoint
from selfx.doctor.ggufs import gguf_checkpoint
from selfx.doctor.spec import Checkpoint
from selfx.errors import SelfxError


def open_checkpoint(path: Path | None) -> Checkpoint:
    """What the files at `path` declare and hold.

    Raises:
      SelfxError: there are none, or they are of a kind that the doctor does not know.
    """
    if path is None:
        raise SelfxError("the model came from no file")
    return folder_checkpoint(path) if path.is_dir() else gguf_checkpoint(path)
