"""What the report shows of answers in words: scores by kind of question, and a few in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfx.evaluation.kinds import WORDS
from selfx.evaluation.report_verdicts import by_number, in_cells, sampled_answers, share
from selfx.evaluation.words import label

Row = dict[str, Any]


def part(
    evaluation: dict[str, Any], rows: Sequence[Row], own: Sequence[Row], main: tuple[str, str]
) -> dict[str, Any]:
    """Returns what fills the template of words.

    Args:
        evaluation: what its folder holds.
        rows: all predictions.
        own: those of the explainer with its own input.
        main: that explainer's name and control.
    """
    asks = sorted({row["ask"] for row in own})
    return {
        "about": f"Kinds of questions: {', '.join(asks)}.",
        "asks": {ask: sum(row["ask"] == ask for row in own) for ask in asks},
        "by_ask": _by_ask(rows, asks, main),
        "by_layer": _by_layer(own, asks),
        "answers": [row for ask in asks for row in _few(rows, own, ask, main[0])],
    }


def _by_ask(rows: Sequence[Row], asks: Sequence[str], main: tuple[str, str]) -> list[Row]:
    """Returns for each explainer and control the exact match of each kind of question."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["explainer"], row["control"]), []).append(row)
    return [
        {
            "label": run[0] if run[0] in WORDS.baselines else label(*run),
            "main": run == main,
            "scores": [share([row for row in its if row["ask"] == ask], "exact") for ask in asks],
        }
        for run, its in runs.items()
    ]


def _by_layer(own: Sequence[Row], asks: Sequence[str]) -> list[Row]:
    """Returns for each layer the exact match of each kind of question, None where there is none."""
    cells = in_cells(own)
    layers = {cell.partition(" × ")[2] for cell in cells}
    return [
        {
            "layer": layer,
            "scores": [
                share(cells[cell], "exact") if (cell := f"{ask} × {layer}") in cells else None
                for ask in asks
            ],
        }
        for layer in sorted(layers, key=by_number)
    ]


def _few(rows: Sequence[Row], own: Sequence[Row], ask: str, explainer: str) -> list[Row]:
    """Returns a right and a wrong answer or two to one kind of question."""
    some = sampled_answers(rows, [row for row in own if row["ask"] == ask], explainer)
    right = [row for row in some if row["exact"]]
    return [*right[:1], *[row for row in some if not row["exact"]][:1]]
