"""The report: one self-contained HTML file over one or more evaluation folders.

`report.html.j2` beside this file lays it out; here is what it is filled with. Everything is
escaped, since questions and answers are text that models wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.evaluation.baselines import BASELINES
from selfx.evaluation.scores import PREDICTIONS, SCHEMA, SCORES
from selfx.files import atomic

ASKED = {
    "activation-patching": (
        "An activation of {target}, taken while it read another prompt, was put in place of its "
        "own at one token and over a few layers. From the prompt, the place and the activation, "
        "the explainer says whether the most likely next token changes, and to what."
    ),
    "input-ablation": (
        "{target} answered a multiple-choice question that came with a hint. From the question "
        "alone, the explainer says whether the answer would change without the hint, and to what."
    ),
}
ASKED_OTHERWISE = "The explainer was asked about {target} (task: {task})."
METRIC_NAMES = {
    "exact_match": ("Exact match", "verdict and content both right"),
    "has_changed_f1": ("Has-changed F1", "mean F1 of the verdicts changed and unchanged"),
    "content_match": ("Content match", "content right, whatever the verdict"),
    "parsed": ("Parsed", "answers that could be read; the others count as wrong"),
}
CONTROL_NAMES = {
    "none": "its own input",
    "zero": "a vector of zeros",
    "shuffled": "another example's vector",
    "rotated": "its vector, randomly rotated",
    "no-text": "the vector without the text",
}
BASELINE_NAMES = {
    **dict.fromkeys(BASELINES, "a constant answer"),
    "untrained": "the model before training",
}
CELLS_SHOWN = 40
ANSWERS_SHOWN = 3  # right ones, and as many wrong ones


def load_evaluation(folder: str | Path) -> dict[str, Any]:
    """Returns an evaluation folder's `name`, `scores` and `predictions` (a table)."""
    folder = Path(folder)
    return {
        "name": folder.resolve().name,
        "scores": _read(folder / SCORES, _read_scores),
        "predictions": _read(folder / PREDICTIONS, _read_predictions),
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
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, points=points, span=span)
    template = files("selfx.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    views = [view(evaluation) for evaluation in evaluations]
    return environment.from_string(template).render(evaluations=views, metrics=METRIC_NAMES)


def view(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Returns what the template shows of one evaluation."""
    scores, rows = evaluation["scores"], evaluation["predictions"].to_pylist()
    main = _main_explainer(scores)
    own = [row for row in rows if (row["explainer"], row["control"]) == main]
    asked = ASKED.get(scores["task"], ASKED_OTHERWISE)
    return {
        "name": evaluation["name"],
        "scores": scores,
        "asked": asked.format(target=scores["target"], task=scores["task"]),
        "main": _label(*main),
        "rows": [_score_row(row, main) for row in scores["rows"]],
        "finding": finding(scores),
        "groups": len({row["group"] for row in own}),
        "balance": _share(own, "changed"),
        "cells": _cells(own),
        "cell_count": len({row["cell"] for row in own}),
        "answers": _sampled_answers(rows, own, main[0]),
        "provenance": json.dumps(scores.get("provenance", {}), indent=2, ensure_ascii=False),
    }


def finding(scores: dict[str, Any]) -> str:
    """Returns in one sentence what the activation was shown to add."""
    lift = scores.get("lift")
    if lift is None:
        if scores["task"] == "input-ablation":
            return "This question carries no activation, so there is no activation to credit."
        return (
            "No vector control was run, so nothing here shows that the activation was used: the "
            "answers may come from the text alone."
        )
    change, control = lift["metrics"]["exact_match"], lift["control"]
    if change["low"] > 0:
        return (
            f"The activation adds {points(change)} points of exact match ({span(change)}) over the "
            f"best control ({control})."
        )
    measured = f"{points(change)} points of exact match ({span(change)})"
    if change["high"] < 0:
        return (
            f"No use of the activation was shown: with it the explainer does worse than under the "
            f"best control ({control}), by {measured}."
        )
    return (
        f"No use of the activation was shown: its difference from the best control ({control}) is "
        f"{measured}, an interval that includes zero."
    )


def percent(share: float) -> str:
    """Returns a share as a percentage with one decimal."""
    return f"{100 * share:.1f}"


def points(interval: dict[str, float]) -> str:
    """Returns a difference in points, with its sign."""
    return _signed(interval["value"])


def span(interval: dict[str, float]) -> str:
    """Returns the bounds of a difference in points, with their signs."""
    return f"{_signed(interval['low'])} to {_signed(interval['high'])}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _main_explainer(scores: dict[str, Any]) -> tuple[str, str]:
    """Returns the (explainer, control) that the report is about: the trained one, uncontrolled."""
    names = [(row["explainer"], row["control"]) for row in scores["rows"]]
    if scores.get("lift"):
        return scores["lift"]["explainer"], "none"
    trained = [name for name in names if name[0] not in BASELINE_NAMES]
    return (trained or names)[0]


def _score_row(row: dict[str, Any], main: tuple[str, str]) -> dict[str, Any]:
    """Returns a score row with the kind and the words that the tables and plots need."""
    explainer, control = row["explainer"], row["control"]
    if explainer in BASELINE_NAMES:
        kind, fed, label = "baseline", BASELINE_NAMES[explainer], explainer
    else:
        kind = "explainer" if control == "none" else "control"
        fed, label = CONTROL_NAMES.get(control, ""), _label(explainer, control)
    return {**row, "kind": kind, "fed": fed, "label": label, "main": (explainer, control) == main}


def _label(explainer: str, control: str) -> str:
    """Returns a short label; of a long name or path, the end tells the most."""
    name = explainer.rstrip("/").split("/")[-1]
    return f"{name if len(name) <= 26 else '…' + name[-25:]} · {control}"


def _cells(own: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the largest cells by name: size, and shares changed as measured and as predicted."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in own:
        cells.setdefault(row["cell"], []).append(row)
    table: list[dict[str, Any]] = [
        {
            "cell": cell,
            "n": len(members),
            "measured": _share(members, "changed"),
            "predicted": _share(members, "predicted_changed"),
            "exact": _share(members, "exact"),
        }
        for cell, members in cells.items()
    ]
    largest = sorted(table, key=lambda row: row["n"], reverse=True)[:CELLS_SHOWN]
    return sorted(largest, key=lambda row: _by_number(row["cell"]))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Returns a sorting key that puts "8-15" before "16-23"."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _share(rows: Sequence[dict[str, Any]], column: str) -> float:
    return sum(bool(row[column]) for row in rows) / max(len(rows), 1)


def _sampled_answers(
    rows: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]], explainer: str
) -> list[dict[str, Any]]:
    """Returns a few right and wrong answers, each beside those given under the controls."""
    right = _spread([row for row in own if row["exact"]])
    wrong = _spread([row for row in own if not row["exact"]])
    given: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in right + wrong}
    for row in rows:
        if row["explainer"] == explainer and row["id"] in given:
            given[row["id"]].append(row)
    return [{**row, "given": given[row["id"]]} for row in right + wrong]


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a few rows, evenly spread, so that they are neither chosen nor all of one subject."""
    count = min(ANSWERS_SHOWN, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


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
        for name in METRIC_NAMES:
            _ = [float(metrics[name][bound]) for bound in ("value", "low", "high")]
    if not scores["rows"]:
        raise ValueError("it has no rows")
    return scores


def _read_predictions(path: Path) -> pa.Table:
    table = pq.read_table(path, partitioning=None)
    absent = [name for name in SCHEMA.names if name not in table.column_names]
    if absent:
        raise ValueError(f"it lacks the columns {', '.join(absent)}")
    return table.select(SCHEMA.names)
