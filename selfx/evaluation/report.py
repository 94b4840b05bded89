"""The report: one self-contained HTML file over one or more evaluation folders.

`report.html.j2` beside this file lays it out; here is what it is filled with. What is shown of each
kind of answers alone is in `report_verdicts` and `report_descriptions`, each with its template.
Everything is escaped, since questions, answers and texts were written by models and by anybody.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.evaluation import report_descriptions, report_verdicts, report_words
from selfx.evaluation.kinds import EXAMPLES, PREDICTIONS, SCORES, Kind, kind_of, main_explainer
from selfx.evaluation.words import CONTROL_NAMES, asked, finding, label, percent, points, span
from selfx.files import atomic

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "verdicts": report_verdicts.part,
    "descriptions": report_descriptions.part,
    "words": report_words.part,
}
"""What fills the template of each kind."""

LOWEST = -1.0
"""Where a picture's scale ends, however low a score is."""


def load_evaluation(folder: str | Path) -> dict[str, Any]:
    """Returns an evaluation folder's `name`, `scores`, `predictions` (a table) and `examples`.

    `examples` is None where the answers' kind has none.
    """
    folder = Path(folder)
    scores = _read(folder / SCORES, _read_scores)
    kind = kind_of(scores["task"])
    read = functools.partial(_read_predictions, kind)
    has_examples = EXAMPLES in kind.files
    return {
        "name": folder.resolve().name,
        "scores": scores,
        "predictions": _read(folder / PREDICTIONS, read),
        "examples": _read(folder / EXAMPLES, _read_examples) if has_examples else None,
    }


def write_report(path: str | Path, evaluations: Sequence[dict[str, Any]]) -> Path:
    """Returns the path of the report, after writing it, whole or not at all."""
    if not evaluations:
        raise SelfxError("no evaluations", expected="at least one evaluation folder")
    html = render(evaluations)
    with atomic(Path(path)) as partial:
        partial.write_bytes(html.encode("utf-8", "replace"))
    return Path(path)


def render(evaluations: Sequence[dict[str, Any]]) -> str:
    """Returns the report as HTML."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters.update(percent=percent, points=points, span=span, place=place)
    views = [view(evaluation) for evaluation in evaluations]
    wide = any(len(one["kind"].measures) > 4 for one in views)
    return environment.get_template("report.html.j2").render(evaluations=views, wide=wide)


def view(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Returns what the template shows of one evaluation."""
    scores, rows = evaluation["scores"], evaluation["predictions"].to_pylist()
    main, kind = main_explainer(scores), kind_of(scores["task"])
    own = [row for row in rows if (row["explainer"], row["control"]) == main]
    provenance = scores.get("provenance", {})
    return {
        "name": evaluation["name"],
        "scores": scores,
        "kind": kind,
        "asked": asked(scores),
        "main": label(*main),
        "rows": [_score_row(row, main, kind) for row in scores["rows"]],
        "finding": finding(scores),
        "groups": len({row["group"] for row in own}),
        "axes": {name: _axis(scores["rows"], name) for name in kind.measures},
        "provenance": json.dumps(provenance, indent=2, ensure_ascii=False),
        **PARTS[kind.name](evaluation, rows, own, main),
    }


def place(score: float, low: float) -> float:
    """Returns where on a scale from `low` to 1 a score is, from 0 to 1."""
    return (max(score, low) - low) / (1 - low)


def _template(name: str) -> str:
    return files("selfx.evaluation").joinpath(name).read_text(encoding="utf-8")


def _score_row(row: dict[str, Any], main: tuple[str, str], kind: Kind) -> dict[str, Any]:
    """Returns a score row with the kind and the words that the tables and plots need."""
    explainer, control = row["explainer"], row["control"]
    if explainer in kind.baselines:
        what, fed, name = "baseline", kind.baselines[explainer], explainer
    else:
        what = "explainer" if control == "none" else "control"
        fed, name = CONTROL_NAMES.get(control, ""), label(explainer, control)
    return {**row, "kind": what, "fed": fed, "label": name, "main": (explainer, control) == main}


def _axis(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Returns the scale of a picture: from 0, or below the lowest interval, to 1."""
    lowest = min(0.0, *(row["metrics"][name]["low"] for row in rows))
    low = max(math.floor(4 * lowest) / 4, LOWEST)
    return {"low": low, "ticks": range(round(100 * low), 101, 25)}


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
