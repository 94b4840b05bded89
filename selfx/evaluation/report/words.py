"""What the report shows of answers in words: scores by kind of question and layer, and in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfx.evaluation.report.answers import sampled
from selfx.evaluation.report.grids import Grid, grid, in_cells, is_grid
from selfx.evaluation.report.verdicts import only, share
from selfx.evaluation.report.wording import name_of

ANSWERS_SHOWN = 4

Row = dict[str, Any]


def part(
    evaluation: dict[str, Any],
    rows: Sequence[Row],
    own: Sequence[Row],
    main: tuple[str, str],
    beside: tuple[str, str],
) -> dict[str, Any]:
    """Returns what fills the template of words.

    Args:
        evaluation: what its folder holds.
        rows: all predictions.
        own: those of the explainer with its own input.
        main: that explainer's name and control.
        beside: the best of the others.
    """
    asks = sorted({row["ask"] for row in own})
    each = min(ANSWERS_SHOWN, evaluation.get("each", ANSWERS_SHOWN))
    return {
        "about": f"Kinds of questions: {', '.join(asks)}.",
        "asks": {ask: sum(row["ask"] == ask for row in own) for ask in asks},
        "by_ask": _by_ask(rows, asks, main),
        "grids": _grids(own, only(rows, beside), name_of(*beside, among=main[0])),
        "answers": sampled(rows, own, beside, lambda row: str(row["ask"]), each),
    }


def _by_ask(rows: Sequence[Row], asks: Sequence[str], main: tuple[str, str]) -> list[Row]:
    """Returns for each explainer and control the exact match of each kind of question."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["explainer"], row["control"]), []).append(row)
    return [
        {
            "label": name_of(*run, among=main[0]),
            "main": run == main,
            "scores": [share([row for row in its if row["ask"] == ask], "exact") for ask in asks],
        }
        for run, its in runs.items()
    ]


def _grids(own: Sequence[Row], others: Sequence[Row], beside: str) -> list[Grid]:
    """Returns exact match by kind of question and layer, of the explainer and the best other."""
    runs = {"Exact match, %": in_cells(own), f"Exact match of {beside}, %": in_cells(others)}
    return [
        grid(title, cells, lambda row: row["exact"])
        for title, cells in runs.items()
        if is_grid(cells)
    ]
