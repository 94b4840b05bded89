"""Scores of arms in brief: the headline score under every control, and the lift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfx.evaluation.answers.kinds import kind_of, main_explainer


def summary(name: str, scores: dict[str, Any]) -> dict[str, Any]:
    """The headline score of an arm, with its interval, under every control, and its lift."""
    explainer, _ = main_explainer(scores)
    headline = kind_of(scores["task"]).headline
    rows = {
        row["control"]: row["metrics"][headline]
        for row in scores["rows"]
        if row["explainer"] == explainer
    }
    lift = scores.get("lift")
    gained = lift and {"over": lift["control"], **lift["metrics"][headline]}
    return {"arm": name, "n": scores["n"], "metric": headline, "scores": rows, "lift": gained}


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """Summaries as a table: percent, 95 % intervals."""
    controls = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    lines = [["", *controls, "lift"]]
    for row in rows:
        cells = (row["scores"].get(name) for name in controls)
        lines.append([row["arm"], *map(cell, cells), cell(row["lift"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def cell(score: Mapping[str, Any] | None) -> str:
    """A score with its interval, percent; without one where it has none."""
    if not score or score["value"] is None:
        return "-"
    value = f"{100 * score['value']:.1f}"
    if score["low"] is None or score["high"] is None:
        return value
    return f"{value} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def mean_score(found: Sequence[dict[str, Any]]) -> float:
    """The mean headline score of several arms."""
    return float(np.mean([summary("", one)["scores"]["none"]["value"] for one in found]))
