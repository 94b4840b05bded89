"""What the report shows of verdicts: how often the output changed, and a few answers in full."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from selfx.evaluation.words import percent

CELLS_SHOWN = 40
ANSWERS_SHOWN = 3  # right ones, and as many wrong ones

Row = dict[str, Any]


def part(
    evaluation: dict[str, Any], rows: Sequence[Row], own: Sequence[Row], main: tuple[str, str]
) -> dict[str, Any]:
    """Returns what fills the template of verdicts.

    Args:
        evaluation: what its folder holds.
        rows: all predictions.
        own: those of the explainer with its own input.
        main: that explainer's name and control.
    """
    changed = share(own, "changed")
    return {
        "about": (
            f"In truth the output changed in {percent(changed)}\u00a0% of them and stayed in "
            f"{percent(1 - changed)}\u00a0%."
        ),
        "cells": _cells(own),
        "cell_count": len({row["cell"] for row in own}),
        "answers": sampled_answers(rows, own, main[0]),
    }


def share(rows: Sequence[Row], column: str) -> float:
    """Returns the share of rows where a column is true."""
    return sum(bool(row[column]) for row in rows) / max(len(rows), 1)


def by_number(name: str) -> list[tuple[int, str]]:
    """Returns a sorting key that puts "8-15" before "16-23"."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def in_cells(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each cell."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    return cells


def _cells(own: Sequence[Row]) -> list[Row]:
    """Returns the largest cells by name: size, and shares changed as measured and as predicted."""
    table: list[Row] = [
        {
            "cell": cell,
            "n": len(members),
            "measured": share(members, "changed"),
            "predicted": share(members, "predicted_changed"),
            "exact": share(members, "exact"),
        }
        for cell, members in in_cells(own).items()
    ]
    largest = sorted(table, key=lambda row: row["n"], reverse=True)[:CELLS_SHOWN]
    return sorted(largest, key=lambda row: by_number(row["cell"]))


def sampled_answers(rows: Sequence[Row], own: Sequence[Row], explainer: str) -> list[Row]:
    """Returns a few right and wrong answers, each beside those given under the controls."""
    right = _spread([row for row in own if row["exact"]])
    wrong = _spread([row for row in own if not row["exact"]])
    given: dict[str, list[Row]] = {row["id"]: [] for row in right + wrong}
    for row in rows:
        if row["explainer"] == explainer and row["id"] in given:
            given[row["id"]].append(row)
    return [{**row, "given": given[row["id"]]} for row in right + wrong]


def _spread(rows: Sequence[Row]) -> list[Row]:
    """Returns a few rows, evenly spread, so that they are neither chosen nor all of one subject."""
    count = min(ANSWERS_SHOWN, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
