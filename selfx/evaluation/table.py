"""The score table as plain text, for terminals and logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfx.evaluation.answers.kinds import Kind, kind_of


def score_table(scores: Mapping[str, Any]) -> str:
    """The rows of `scores.json` in aligned columns, percent with 95 % intervals, and the lift.

    Of measures too many for a line it has those that say most.
    """
    kind = kind_of(scores["task"])
    measures = {name: measure for name, measure in kind.measures.items() if measure.brief}
    head = ["explainer", "input", *(measure.heading for measure in measures.values())]
    body = [
        [
            short(row["explainer"]),
            row["control"],
            *(_cell(row["metrics"].get(name)) for name in measures),
        ]
        for row in scores["rows"]
    ]
    title = f"{scores['task']} on {scores['target']}, {scores['n']} held-out questions"
    lines = [title, *aligned([head, *body]), *_lift(kind, scores.get("lift"))]
    return "\n".join([*lines, *_apart(kind, scores)])


def _apart(kind: Kind, scores: Mapping[str, Any]) -> list[str]:
    """The headline scores of each part of the questions, where they are told apart."""
    parts = scores.get(f"by_{kind.by}") if kind.by else None
    if not parts:
        return []
    head = ["explainer", "input", *(f"{name} ({part['n']})" for name, part in parts.items())]
    columns = [
        [f"{100 * row['metrics'][kind.headline]['value']:.1f}" for row in part["rows"]]
        for part in parts.values()
    ]
    names = [[short(row["explainer"]), row["control"]] for row in scores["rows"]]
    body = [
        name + list(shares) for name, shares in zip(names, zip(*columns, strict=True), strict=True)
    ]
    title = f"{kind.measures[kind.headline].heading} by {kind.by}"
    return [title, *aligned([head, *body])]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns padded to one width each."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table)
    return [line.rstrip() for line in lines]


def _lift(kind: Kind, lift: Mapping[str, Any] | None) -> list[str]:
    if not lift:
        return []
    gain, of = _cell(lift["metrics"][kind.headline]), kind.measures[kind.headline].heading
    told = f"{kind.carries} lift: {gain} points of {of} over {lift['control']}"
    return [told, *_power(lift["metrics"][kind.headline], lift.get("smallest"), kind)]


def _power(
    change: Mapping[str, float], smallest: Mapping[str, float | None] | None, kind: Kind
) -> list[str]:
    """How small a lift could have been seen, where none was."""
    least = smallest and smallest.get(kind.headline)
    if not least or not change["low"] <= 0 <= change["high"]:
        return []
    return [f"the smallest lift that this run could have seen is {100 * least:.1f} points"]


def _cell(metric: Mapping[str, float] | None) -> str:
    if metric is None:
        return "-"
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def short(name: str) -> str:
    """The end of a name or path."""
    return name.rstrip("/").split("/")[-1]
