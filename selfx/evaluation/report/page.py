"""The report: one self-contained HTML file over one or more evaluation folders.

`page.html.j2` beside this file lays it out; here is what it is filled with. What is shown of each
kind of answers alone is in `verdicts`, `words` and `descriptions`, what is shown of several
evaluations together in `several` and `seeds`, each with its template.
Everything is escaped, since questions, answers and texts were written by models and by anybody.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import Kind, kind_of, main_explainer
from selfx.evaluation.judge.kept import load_judged
from selfx.evaluation.report import descriptions, several, verdicts, words
from selfx.evaluation.report.calibration import calibration
from selfx.evaluation.report.judges import judges
from selfx.evaluation.report.seeds import over_seeds
from selfx.evaluation.report.wording import (
    CONTROL_NAMES,
    asked,
    finding,
    label,
    name_of,
    percent,
    points,
    short,
    span,
)
from selfx.files import atomic

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "verdicts": verdicts.part,
    "descriptions": descriptions.part,
    "words": words.part,
}
"""What fills the template of each kind."""

LOWEST = -1.0
"""Where a picture's scale ends, however low a score is."""

TRUTH = ("gold",)
"""Baselines that are told the truth, with which no explainer is compared."""

ANSWERS_SHOWN = 48
"""Of each kind, in all evaluations of one report together: a file that opens at once."""


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
    environment.filters.update(percent=percent, points=points, span=span, place=place, short=short)
    each = max(2, min(12, ANSWERS_SHOWN // (2 * len(evaluations))))
    views = [
        view({**evaluation, "each": each}, f"e{number}")
        for number, evaluation in enumerate(evaluations, start=1)
    ]
    wide = any(len(one["kind"].measures) > 4 for one in views)
    together = several.several(views)
    page = environment.get_template("page.html.j2")
    over = over_seeds(evaluations)
    return page.render(evaluations=views, wide=wide, together=together, over_seeds=over)


def view(evaluation: dict[str, Any], key: str = "e1") -> dict[str, Any]:
    """Returns what the template shows of one evaluation; `key` is its name in the page."""
    scores, rows = evaluation["scores"], evaluation["predictions"].to_pylist()
    main, kind = main_explainer(scores), kind_of(scores["task"])
    best = beside(scores, main, kind)
    own = [row for row in rows if (row["explainer"], row["control"]) == main]
    provenance = scores.get("provenance", {})
    return {
        "key": key,
        "name": evaluation["name"],
        "scores": scores,
        "kind": kind,
        "asked": asked(scores),
        "main": label(*main),
        "best": best,
        "beside": name_of(*best, among=main[0]),
        "rows": [_score_row(row, main, kind) for row in scores["rows"]],
        "finding": finding(scores),
        "groups": len({row["group"] for row in own}),
        "calibration": calibration(scores.get("calibration")),
        "judges": judges(load_judged(evaluation["folder"]), main),
        "paired": [
            {**row, "best": (row["explainer"], row["control"]) == best, "p": _p(row["test"]["p"])}
            for row in _named(scores.get("paired"), main)
        ],
        "released": _named(scores.get("released"), main),
        "axes": {name: _axis(scores["rows"], name) for name in kind.measures},
        "provenance": json.dumps(provenance, indent=2, ensure_ascii=False),
        **PARTS[kind.name](evaluation, rows, own, main, best),
    }


def beside(scores: dict[str, Any], main: tuple[str, str], kind: Kind) -> tuple[str, str]:
    """Returns the best (explainer, control) without the explainer's own input.

    That which the lift is over, where there is one; else the best of the others by the headline
    score. Alone, an explainer stands beside itself.
    """
    names = {
        (row["explainer"], row["control"]): row["metrics"][kind.headline]["value"]
        for row in scores["rows"]
    }
    lift = scores.get("lift")
    over = [(lift["explainer"], lift["control"]), (lift["control"], "none")] if lift else []
    found = [name for name in over if name in names]
    others = [name for name in names if name != main and name[0] not in TRUTH]
    return next(iter(found), None) or max(others, key=names.__getitem__, default=main)


def place(score: float, low: float) -> float:
    """Returns where on a scale from `low` to 1 a score is, from 0 to 1."""
    return (max(score, low) - low) / (1 - low)


def _template(name: str) -> str:
    return files("selfx.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _score_row(row: dict[str, Any], main: tuple[str, str], kind: Kind) -> dict[str, Any]:
    """Returns a score row with the kind and the words that the tables and plots need."""
    explainer, control = row["explainer"], row["control"]
    if explainer in kind.baselines:
        what, fed, name = "baseline", kind.baselines[explainer], explainer
    else:
        what = "explainer" if control == "none" else "control"
        fed, name = CONTROL_NAMES.get(control, ""), label(explainer, control)
    return {**row, "kind": what, "fed": fed, "label": name, "main": (explainer, control) == main}


def _named(rows: Sequence[dict[str, Any]] | None, main: tuple[str, str]) -> list[dict[str, Any]]:
    """Returns rows of `scores.json` with labels."""
    return [
        {
            **row,
            "label": name_of(row["explainer"], row["control"], among=main[0]),
            "main": (row["explainer"], row["control"]) == main,
        }
        for row in rows or ()
    ]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _axis(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Returns the scale of a picture: from 0, or below the lowest interval, to 1."""
    lowest = min(0.0, *(row["metrics"][name]["low"] for row in rows))
    low = max(math.floor(4 * lowest) / 4, LOWEST)
    return {"low": low, "ticks": range(round(100 * low), 101, 25)}
