"""What the report shows of descriptions: scores by layer, and a few features with their texts.

A token's heat is its activation as a share of the feature's highest, in ten steps. A step shows in
the background's strength, in the thickness of the line under the token, which needs no colour and
survives printing, and in its title, with the number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfx.evaluation.answers.kinds import DESCRIPTIONS
from selfx.evaluation.report.grids import by_number, in_cells
from selfx.evaluation.report.verdicts import only
from selfx.evaluation.report.wording import CONTROL_NAMES, label, percent

STEPS = 10
KIND_NAMES = {"top": "highest", "sample": "some text where it is on", "random": "some text"}
TOLD = {
    name: measure
    for name, measure in DESCRIPTIONS.measures.items()
    if measure.brief and name != "parsed"
}
"""The scores beside each description; whether it could be read is said in words."""

_COLUMNS = {"exact_match": "exact"}
_VISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})

Row = dict[str, Any]


def part(
    evaluation: dict[str, Any],
    rows: Sequence[Row],
    own: Sequence[Row],
    main: tuple[str, str],
    beside: tuple[str, str],
) -> dict[str, Any]:
    """Returns what fills the template of descriptions.

    Args:
        evaluation: what its folder holds.
        rows: all predictions.
        own: those of the explainer with its own input.
        main: that explainer's name and control.
        beside: the best of the others.
    """
    said: dict[str, list[Row]] = {feature["id"]: [] for feature in evaluation["examples"]}
    for row in rows:
        if row["id"] in said:
            said[row["id"]].append(row)
    return {
        "about": _about(evaluation["scores"]),
        "layers": _layers(own, only(rows, beside)),
        "told": TOLD,
        "features": [
            _feature(feature, said[feature["id"]], main)
            for feature in evaluation["examples"]
            if said[feature["id"]]
        ],
    }


def heat(pieces: Sequence[str], activations: Sequence[float], peak: float) -> list[Row]:
    """Returns for each token its visible text, its step from 0 to 10, and a title where it is on.

    A token that is on at all has step 1 at least.
    """
    shares = [max(level, 0.0) / peak if peak > 0 else 0.0 for level in activations]
    return [
        {
            "text": piece.translate(_VISIBLE),
            "step": min(max(round(STEPS * share), 1), STEPS) if share > 0 else 0,
            "title": f"{level:.3g}, {percent(share)} % of the highest",
        }
        for piece, level, share in zip(pieces, activations, shares, strict=True)
    ]


def _about(scores: Mapping[str, Any]) -> str:
    judges = scores.get("provenance", {}).get("scoring", {})
    simulator = judges.get("simulator", {}).get("name", "not recorded")
    embedder = judges.get("similarity", {}).get("embedder", "not recorded")
    return f"Simulator: {simulator}. Wordings compared by: {embedder}."


def _layers(own: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Returns each cell's size and mean scores, each beside that of the best other."""
    cells, also = in_cells(own), in_cells(others)
    return [
        {
            "cell": cell,
            "n": len(cells[cell]),
            "scores": [
                (_mean(cells[cell], name), _mean(also[cell], name) if cell in also else None)
                for name in DESCRIPTIONS.measures
            ],
        }
        for cell in sorted(cells, key=by_number)
    ]


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(_score(row, name) for row in rows) / len(rows)


def _score(row: Row, name: str) -> float:
    return float(row[_COLUMNS.get(name, name)])


def _feature(feature: Row, said: Sequence[Row], main: tuple[str, str]) -> Row:
    """Returns a feature's texts, and what everybody says of it."""
    own = next((row for row in said if (row["explainer"], row["control"]) == main), said[0])
    number = feature["feature"]
    names = [own["cell"], None if number is None else f"feature {number}", feature["dictionary"]]
    return {
        "simulation": own["simulation"],
        "name": " · ".join(name for name in [*names, feature["id"]] if name),
        "frequency": feature["frequency"],
        "promoted": feature["promoted"],
        "suppressed": feature["suppressed"],
        "truth": own["answer"],
        "texts": [
            {
                "kind": KIND_NAMES.get(text["kind"], text["kind"]),
                "tokens": heat(text["pieces"], text["activations"], float(feature["peak"])),
                "cut": text["cut"],
            }
            for text in feature["texts"]
        ],
        "said": [_said(row, main) for row in said],
    }


def _said(row: Row, main: tuple[str, str]) -> Row:
    """Returns one description with its scores."""
    explainer, control = row["explainer"], row["control"]
    baseline = explainer in DESCRIPTIONS.baselines
    return {
        "by": explainer if baseline else label(explainer, control),
        "fed": "baseline" if baseline else CONTROL_NAMES.get(control, ""),
        "text": row["prediction"],
        "parsed": row["parsed"],
        "main": (explainer, control) == main,
        "scores": [_score(row, name) for name in TOLD],
    }
