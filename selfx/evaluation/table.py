"""The score table as plain text, for terminals and logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADINGS = {
    "exact_match": "exact match",
    "has_changed_f1": "has-changed F1",
    "content_match": "content match",
    "parsed": "parsed",
}


def score_table(scores: Mapping[str, Any]) -> str:
    """The rows of `scores.json` in aligned columns, percent with 95 % intervals, and the lift."""
    head = ["explainer", "vector", *HEADINGS.values()]
    body = [
        [
            _short(row["explainer"]),
            row["control"],
            *(_cell(row["metrics"].get(m)) for m in HEADINGS),
        ]
        for row in scores["rows"]
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in [head, *body]
    ]
    title = f"{scores['task']} on {scores['target']}, {scores['n']} held-out questions"
    return "\n".join([title, *(line.rstrip() for line in lines), *_lift(scores.get("lift"))])


def _lift(lift: Mapping[str, Any] | None) -> list[str]:
    if not lift:
        return []
    gain = _cell(lift["metrics"]["exact_match"])
    return [f"activation lift: {gain} points of exact match over the {lift['control']} vector"]


def _cell(metric: Mapping[str, float] | None) -> str:
    if metric is None:
        return "-"
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _short(name: str) -> str:
    return name.rstrip("/").split("/")[-1]
