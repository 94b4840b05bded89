"""What is kept of a run names files as anybody has them, not by where they lay on one machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfx import data


def portable(record: Any, work: Path, files: Iterable[str | None] = ()) -> Any:
    """The record with paths cut short, wherever in it they stand.

    Args:
      record: JSON values.
      work: a folder; what lies in it is named from there on.
      files: each is called by its name alone; what comes with selfx always is.
    """
    text = json.dumps(record)
    for folder in (work.resolve(), work, data.text_path().parent):
        text = text.replace(_written(f"{folder}/"), "")
    for given in filter(None, files):
        for path in (Path(given).resolve(), Path(given)):
            text = text.replace(_written(str(path)), path.name)
    return json.loads(text)


def _written(path: str) -> str:
    """How a path stands within a JSON string."""
    return json.dumps(path)[1:-1]
