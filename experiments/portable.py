"""What is kept of a run names files as anybody has them, not by where they lay on one machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfx import data


def portable(record: Any, work: Path, files: Iterable[str | None] = ()) -> Any:
    """The record with paths cut short, wherever in it they stand.

    Args:
      record: JSON values.
      work: a folder; what lies in it is named from there on, what lies in the current folder from
        there.
      files: each is called by its name alone; what comes with selfx always is.
    """
    text = json.dumps(record)
    for folder in (work.resolve(), work, data.text_path().parent, Path.cwd()):
        text = text.replace(_written(f"{folder}/"), "")
    for given in filter(None, files):
        for path in (Path(given).resolve(), Path(given)):
            text = text.replace(_written(str(path)), path.name)
    return json.loads(text)


def portable_evaluation(
    evaluation: dict[str, Any], work: Path, files: Iterable[str | None] = ()
) -> dict[str, Any]:
    """An evaluation as `load_evaluation` has it, such that its report names no such path either."""
    files, said = [*files], evaluation["predictions"]
    names = portable(said["explainer"].to_pylist(), work, files)
    place = said.column_names.index("explainer")
    predictions = said.set_column(place, "explainer", pa.array(names, pa.string()))
    scores = portable(evaluation["scores"], work, files)
    return {**evaluation, "scores": scores, "predictions": predictions}


def _written(path: str) -> str:
    """How a path stands within a JSON string."""
    return json.dumps(path)[1:-1]
