"""What judges said, as plain text for terminals and logs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from selfx.evaluation.table import aligned, short

MEASURES = {
    "spearman": "Spearman",
    "kendall": "Kendall's tau-b",
    "kappa": "kappa, quadratic weights",
}


@dataclasses.dataclass(frozen=True)
class Judged:
    """All judges of a folder, as a table or as JSON.

    Attributes:
      summary: what `judged.json` holds.
    """

    summary: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The summary."""
        return dict(self.summary)

    def __rich__(self) -> Text:
        return Text(judged_table(self.summary))


def judged_table(summary: Mapping[str, Any]) -> str:
    """Scores of each explainer by each judge, percent with 95 % intervals; then agreement."""
    judges = summary["judges"]
    parts = [_scores(judges), *(line for judge in judges for line in _notes(judge))]
    if summary["agreement"]:
        parts.append(_agreement(summary["agreement"]))
    return "\n".join(parts)


def _scores(judges: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        {(row["explainer"], row["control"]): _cell(row["score"]) for row in judge["rows"]}
        for judge in judges
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    head = ["explainer", "vector", *(f"{judge['judge']} ({judge['n']})" for judge in judges)]
    body = [
        [short(explainer), control, *(column.get((explainer, control), "-") for column in columns)]
        for explainer, control in names
    ]
    return "\n".join(aligned([head, *body]))


def _notes(judge: Mapping[str, Any]) -> list[str]:
    """What the vector adds, and how many replies could not be read."""
    lift, lines = judge["lift"], []
    if lift:
        gain = _cell(lift["score"])
        lines.append(f"{judge['judge']}: {gain} points with its own vector, over {lift['control']}")
    asked, unread = (sum(row[name] for row in judge["rows"]) for name in ("asked", "unread"))
    if unread:
        lines.append(f"{judge['judge']}: {unread} of {asked} ratings could not be read, and are 0")
    return lines


def _agreement(agreed: Sequence[Mapping[str, Any]]) -> str:
    head = ["agreement of", "over", "n", *MEASURES.values()]
    body = [
        [f"{each['a']} and {each['b']}", each["over"], str(each["n"])]
        + [_figure(each[name]) for name in MEASURES]
        for each in agreed
    ]
    return "\n".join(aligned([head, *body]))


def _cell(score: Mapping[str, float]) -> str:
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _figure(measure: Mapping[str, float | None]) -> str:
    parts = [measure[key] for key in ("value", "low", "high")]
    value, low, high = ("-" if part is None else f"{round(part, 2) + 0.0:.2f}" for part in parts)
    return "-" if parts[0] is None else f"{value} ({low} to {high})"
