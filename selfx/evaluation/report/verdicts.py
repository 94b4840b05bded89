"""What the report shows of verdicts: how often the output changed, and answers in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfx.evaluation.report.answers import sampled
from selfx.evaluation.report.grids import Grid, by_number, grid, in_cells, is_grid
from selfx.evaluation.report.wording import name_of, percent

CELLS_SHOWN = 40
ANSWERS_SHOWN = 12

Row = dict[str, Any]
Cells = Mapping[str, Sequence[Row]]


def part(
    evaluation: dict[str, Any],
    rows: Sequence[Row],
    own: Sequence[Row],
    main: tuple[str, str],
    beside: tuple[str, str],
) -> dict[str, Any]:
    """Returns what fills the template of verdicts.

    Args:
        evaluation: what its folder holds.
        rows: all predictions.
        own: those of the explainer with its own input.
        main: that explainer's name and control.
        beside: the best of the others.
    """
    changed = share(own, "changed")
    cells, others = in_cells(own), in_cells(only(rows, beside))
    beside_name = name_of(*beside, among=main[0])
    return {
        "about": (
            f"In truth the output changed in {percent(changed)}\u00a0% of them and stayed in "
            f"{percent(1 - changed)}\u00a0%."
        ),
        "grids": _grids(cells, others, beside_name) if is_grid(cells) else [],
        "cells": _cells(cells, others),
        "cell_count": len(cells),
        "answers": sampled(rows, own, beside, _kind, evaluation.get("each", ANSWERS_SHOWN)),
    }


def only(rows: Sequence[Row], run: tuple[str, str]) -> list[Row]:
    """Returns the rows of one explainer under one control."""
    return [row for row in rows if (row["explainer"], row["control"]) == run]


def share(rows: Sequence[Row], column: str) -> float:
    """Returns the share of rows where a column is true."""
    return sum(bool(row[column]) for row in rows) / max(len(rows), 1)


def _grids(cells: Cells, others: Cells, beside: str) -> list[Grid]:
    """Returns what happened beside what was said, and how often both parts of it were right."""
    both = [
        grid("Changed in truth, %", cells, lambda row: bool(row["changed"])),
        grid("Changed, says the explainer, %", cells, lambda row: bool(row["predicted_changed"])),
        grid("Exact match, %", cells, lambda row: row["exact"]),
    ]
    if not others:
        return both
    return [*both, grid(f"Exact match of {beside}, %", others, lambda row: row["exact"])]


def _cells(cells: Cells, others: Cells) -> list[Row]:
    """Returns the largest cells by name: size, and shares changed as measured and as predicted."""
    table: list[Row] = [
        {
            "cell": cell,
            "n": len(members),
            "measured": share(members, "changed"),
            "predicted": share(members, "predicted_changed"),
            "exact": share(members, "exact"),
            "beside": share(others[cell], "exact") if cell in others else None,
        }
        for cell, members in cells.items()
    ]
    largest = sorted(table, key=lambda row: row["n"], reverse=True)[:CELLS_SHOWN]
    return sorted(largest, key=lambda row: by_number(row["cell"]))


def _kind(row: Row) -> str:
    return "changed" if row["changed"] else "unchanged"
