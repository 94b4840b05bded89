"""What the report shows of explainers trained several times: every row over seeds, and the lift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfx.evaluation.answers.kinds import kind_of
from selfx.evaluation.report.wording import CONTROL_NAMES, finding
from selfx.evaluation.statistics.seeds import EXPLAINER, alike, of_evaluations


def over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what the template shows of those evaluations that differ by their seed alone."""
    groups = alike(evaluations)
    by = [group[0]["scores"].get("provenance", {}).get("explainer_model", "") for group in groups]
    told = len({*by}) > 1
    return [
        {**seeds(of_evaluations(group)), "by": name if told else ""}
        for group, name in zip(groups, by, strict=True)
    ]


def seeds(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the template shows of one result of `statistics.seeds.of_evaluations`."""
    kind, headline = kind_of(found["task"]), found["headline"]
    lift = found["lift"]
    return {
        "task": found["task"],
        "target": found["target"],
        "n": found["n"],
        "seeds": found["seeds"],
        "folders": found["folders"],
        "title": kind.measures[headline].title,
        "rows": [
            {
                "label": row["explainer"] if row["control"] == "none" else row["control"],
                "about": _about(row, kind.baselines),
                "main": (row["explainer"], row["control"]) == (EXPLAINER, "none"),
                **row["metrics"][headline],
            }
            for row in found["rows"]
        ],
        "finding": lift and finding(found),
        "lift": lift and {"over": lift["control"], **lift["metrics"][headline]},
    }


def _about(row: Mapping[str, Any], baselines: Mapping[str, str]) -> str:
    if row["explainer"] in baselines:
        return baselines[row["explainer"]]
    return CONTROL_NAMES.get(row["control"], "")
