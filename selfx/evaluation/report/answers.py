"""The answers that a report shows in full: few, not chosen, each beside those of its controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

LETTERS_SHOWN = 3000
"""Of a question or an answer; the longest questions of published sets have about 2,000."""

Row = dict[str, Any]


def sampled(
    rows: Sequence[Row],
    own: Sequence[Row],
    beside: tuple[str, str],
    kind: Callable[[Row], str],
    each: int,
) -> dict[str, Any]:
    """Returns some answers, their kinds, and the rule by which they were taken.

    Args:
        rows: all predictions.
        own: those of the explainer with its own input.
        beside: whose answers stand with those that it gave under its controls.
        kind: tells the kinds of questions apart, besides right and wrong.
        each: how many answers there may be of each kind, right and wrong.
    """
    groups: dict[tuple[bool, str], list[Row]] = {}
    for row in own:
        groups.setdefault((not row["exact"], kind(row)), []).append(row)
    kinds = sorted({name for _, name in groups})
    taken = [row for key in sorted(groups) for row in spread(groups[key], each)]
    given: dict[str, list[Row]] = {row["id"]: [] for row in taken}
    for row in rows:
        mine = bool(own) and row["explainer"] == own[0]["explainer"]
        if row["id"] in given and (mine or (row["explainer"], row["control"]) == beside):
            given[row["id"]].append(row)
    return {
        "kinds": kinds,
        "rule": _rule(len(taken), len(own), kinds, each),
        "shown": [_shown(row, given[row["id"]], kinds.index(kind(row))) for row in taken],
    }


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Returns some rows, evenly spread, so that they are neither chosen nor all of one subject."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _rule(taken: int, whole: int, kinds: Sequence[str], each: int) -> str:
    if taken == whole:
        return f"All {whole:,} answers."
    of = f" of each kind ({', '.join(kinds)})" if len(kinds) > 1 else ""
    return (
        f"{taken:,} of {whole:,} answers: at most {each} right and {each} wrong ones{of}, evenly "
        "spaced in the order of the questions, none chosen."
    )


def _shown(row: Row, given: Sequence[Row], kind: int) -> Row:
    """Returns an answer with its kind's number, its texts cut where they are very long."""
    return {
        **row,
        "kind": kind,
        "question": _cut(row["question"]),
        "answer": _cut(row["answer"]),
        "given": [{**each, "prediction": _cut(each["prediction"])} for each in given],
    }


def _cut(text: str) -> str:
    if len(text) <= LETTERS_SHOWN:
        return text
    return f"{text[:LETTERS_SHOWN]} … ({len(text):,} letters)"
