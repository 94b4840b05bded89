"""Whether one answer is right, by the rule that its kind is scored by."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from selfx.evaluation.answers.kinds import DESCRIPTIONS, VERDICTS, kind_of
from selfx.evaluation.answers.metrics import score
from selfx.features.descriptions.statements import parse
from selfx.features.exemplars.excerpts import Evidence
from selfx.features.scores.score import score_detection, score_simulation
from selfx.features.scores.simulate import simulate
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Truth
from selfx.tasks.plain_words import bare


@dataclasses.dataclass(frozen=True)
class Judged:
    """What an answer is worth.

    Attributes:
      right: whether it is right; None where there is no truth, or no yes or no.
      scores: of a description.
    """

    right: bool | None = None
    scores: dict[str, float | None] = dataclasses.field(default_factory=dict)


def judge(example: Example, answer: str, truth: Truth) -> Judged:
    """Returns what an answer is worth, beside what really happened."""
    kind = kind_of(example.task)
    if kind is DESCRIPTIONS:
        return (
            Judged() if truth.evidence is None else Judged(scores=_scores(answer, truth.evidence))
        )
    if not truth.answer:
        return Judged()
    if kind is VERDICTS:
        told: dict[str, Any] = {
            "answer": truth.answer,
            "changed": truth.changed,
            "content": truth.content,
        }
        return Judged(bool(score([dataclasses.replace(example, **told)], [answer]).exact[0]))
    return Judged(bare(answer) == bare(truth.answer))


def _scores(answer: str, evidence: Evidence) -> dict[str, Any]:
    """Returns the scores of a description on texts; None where one is not defined."""
    if not parse(answer).clauses:
        return {"simulation": 0.0, "detection": 0.5}
    (simulation,) = score_simulation([answer], [evidence], simulate)
    (detection,) = score_detection([answer], [evidence], simulate)
    found = {"simulation": simulation.correlation, "detection": detection}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
