"""What the report shows of judges: their scores of every row, and how far they agree."""

from __future__ import annotations

from typing import Any

from selfx.evaluation.report.wording import name_of

AGREEMENTS = {
    "spearman": "Spearman's ρ",
    "kendall": "Kendall's τ",
    "kappa": "κ, quadratic weights",
}


def judges(judged: dict[str, Any] | None, main: tuple[str, str]) -> dict[str, Any] | None:
    """Returns each judge's score of each row, side by side, and the agreements; None without any.

    Args:
        judged: what `judged.json` holds.
        main: the explainer that the evaluation is about, and its control.
    """
    if not judged or not judged["judges"]:
        return None
    scores = [
        {(row["explainer"], row["control"]): row for row in one["rows"]} for one in judged["judges"]
    ]
    names = dict.fromkeys(name for one in scores for name in one)
    return {
        "names": [one["judge"] for one in judged["judges"]],
        "rows": [
            {
                "label": name_of(*name, among=main[0]),
                "main": name == main,
                "scores": [one.get(name) for one in scores],
            }
            for name in names
        ],
        "lifts": [one["lift"] for one in judged["judges"]],
        "agreements": AGREEMENTS,
        "pairs": judged["agreement"],
    }
