"""Reading an evaluation folder, and naming what is wrong with one that cannot be read."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import CONFIDENCE, EXAMPLES, PREDICTIONS, SCORES, Kind, kind_of

VAGUE = ("scores", "evaluation")
"""Folder names that say nothing; the one above says more."""


def load_evaluation(folder: str | Path) -> dict[str, Any]:
    """Returns an evaluation folder's `name`, `scores`, `predictions` (a table) and `examples`.

    `examples` is None where the answers' kind has none; `folder` is the folder itself.
    """
    folder = Path(folder)
    scores = _read(folder / SCORES, _read_scores)
    kind = kind_of(scores["task"])
    read = functools.partial(_read_predictions, kind)
    has_examples = EXAMPLES in kind.files
    return {
        "name": _name(folder.resolve()),
        "folder": folder,
        "scores": scores,
        "predictions": _read(folder / PREDICTIONS, read),
        "examples": _read(folder / EXAMPLES, _read_examples) if has_examples else None,
    }


def _name(folder: Path) -> str:
    """Returns what an evaluation is called: its folder, or that above where it says nothing."""
    return folder.parent.name if folder.name in VAGUE and folder.parent.name else folder.name


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Returns what the reader makes of the file; what goes wrong ends in one kind of error."""
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        raise SelfxError(
            f"{path} {'is missing' if missing else f'cannot be read: {error!r}'}",
            expected=f"an evaluation folder with {SCORES} and {PREDICTIONS}",
            hint=f"`selfx evaluate --data DIR --explainer RUN --out {path.parent}`",
        ) from error


def _read_scores(path: Path) -> dict[str, Any]:
    scores = json.loads(path.read_text(encoding="utf-8"))
    scores["task"], scores["target"], scores["n"]
    for row in scores["rows"]:
        row["explainer"], row["control"]
    if scores.get("lift"):
        scores["lift"]["explainer"], scores["lift"]["control"]
    for metrics in [item["metrics"] for item in [*scores["rows"], scores.get("lift")] if item]:
        for name in kind_of(scores["task"]).measures:
            _ = [float(metrics[name][bound]) for bound in ("value", "low", "high")]
    if not scores["rows"]:
        raise ValueError("it has no rows")
    return scores


def _read_predictions(kind: Kind, path: Path) -> pa.Table:
    table = pq.read_table(path, partitioning=None)
    if CONFIDENCE in kind.schema.names and CONFIDENCE not in table.column_names:
        table = table.append_column(CONFIDENCE, pa.nulls(table.num_rows, pa.float64()))
    absent = [name for name in kind.schema.names if name not in table.column_names]
    if absent:
        raise ValueError(f"it lacks the columns {', '.join(absent)}")
    return table.select(kind.schema.names)


def _read_examples(path: Path) -> list[dict[str, Any]]:
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    for feature in features:
        feature["id"], feature["feature"], feature["dictionary"]
        *feature["promoted"], *feature["suppressed"], *feature["texts"]
        numbers = [feature["peak"], feature["frequency"] or 0]
        for text in feature["texts"]:
            text["kind"], text["cut"][1]
            numbers += text["activations"]
            if len(text["pieces"]) != len(text["activations"]):
                raise ValueError("a text without an activation for each token")
        if not all(map(math.isfinite, numbers)):
            raise ValueError("an activation that is no number")
    return features
