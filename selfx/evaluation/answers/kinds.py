"""The kinds of answers there are, and how each is scored, named and shown.

Two tasks are answered by a verdict (the output changed or not, and to what), one by a description
that is held against measured activations, one by a few words. What differs between them is written
here once; the terminal's table, the report and the files of an evaluation are filled from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import METRICS
from selfx.evaluation.statistics.rows import Metric, Rows, mean_of
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING, READING

SCORES = "scores.json"
CONFIDENCE = "confidence"
"""The column of predictions that is empty where confidence was not measured, and absent from
evaluations that are older than it."""
PREDICTIONS = "predictions.parquet"
EXAMPLES = "examples.json"

_OF_VECTORS = (
    "selfie",
    "selfie-oracle",
    "logit-lens",
    "nearest-vector",
    "nearest-cosine",
    "nearest-dot",
    "probe",
)
NEEDS = {**dict.fromkeys(_OF_VECTORS, "vector"), "shifted-scores": "score"}
"""What a baseline goes by, besides the question, that a trace may not have."""


@dataclass(frozen=True)
class Measure:
    """A score, and how it is called.

    Attributes:
        title: in the report.
        heading: in tables of text, and in sentences.
        meaning: what it is, in a few words.
        metric: from outcomes and weights to the score.
        brief: whether tables that must be narrow have it.
    """

    title: str
    heading: str
    meaning: str
    metric: Metric
    brief: bool = True


@dataclass(frozen=True)
class Kind:
    """What answers of one kind have in common.

    Attributes:
        name: `verdicts`, `descriptions` or `words`.
        headline: the measure that findings, lifts and the best control go by.
        carries: what the question's vector is called.
        measures: by the names that `scores.json` has.
        baselines: those that fit, and what each is.
        room: tokens that an answer may take.
        schema: of `predictions.parquet`.
        files: what an evaluation folder holds of it, the report apart.
        by: the column of the trace that scores are also told apart by, or "".
    """

    name: str
    headline: str
    carries: str
    measures: Mapping[str, Measure]
    baselines: Mapping[str, str]
    room: int
    schema: pa.Schema
    files: tuple[str, ...] = (SCORES, PREDICTIONS)
    by: str = ""

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name."""
        return {name: measure.metric for name, measure in self.measures.items()}

    def headline_of(self, rows: Rows) -> float:
        """Returns the headline score of one explainer's rows."""
        return float(self.measures[self.headline].metric(rows, None))

    def fitting(
        self, baselines: tuple[str, ...] | None, held: Collection[str] = ("vector", "score")
    ) -> tuple[str, ...]:
        """Returns the baselines asked for, all that fit where none are named.

        Args:
            baselines: their names.
            held: what of `NEEDS` the trace has.

        Raises:
            SelfxError: one is of another kind, or needs what the trace has not.
        """
        fit = [name for name in self.baselines if name not in NEEDS or NEEDS[name] in held]
        if baselines is None:
            return tuple(fit)
        others = [name for name in baselines if name not in fit]
        if others:
            need = NEEDS.get(others[0]) if others[0] in self.baselines else None
            without = f" and have no {need}" if need else ""
            raise SelfxError(
                f"baseline {others[0]!r} for answers that are {self.name}{without}",
                expected=f"one of {', '.join(fit)}",
            )
        return baselines


def _schema(*own: tuple[str, pa.DataType], more: tuple[str, ...] = ()) -> pa.Schema:
    first = ("id", "explainer", "control", "question", "answer", "prediction")
    return pa.schema(
        [
            *((name, pa.string()) for name in first),
            *own,
            ("parsed", pa.bool_()),
            ("exact", pa.bool_()),
            ("group", pa.string()),
            ("cell", pa.string()),
            *((name, pa.float64()) for name in more),
        ]
    )


VERDICTS = Kind(
    name="verdicts",
    headline="exact_match",
    carries="activation",
    measures={
        "exact_match": Measure(
            "Exact match", "exact match", "verdict and content both right", METRICS["exact_match"]
        ),
        "has_changed_f1": Measure(
            "Has-changed F1",
            "has-changed F1",
            "mean F1 of the verdicts changed and unchanged",
            METRICS["has_changed_f1"],
        ),
        "content_match": Measure(
            "Content match",
            "content match",
            "content right, whatever the verdict",
            METRICS["content_match"],
        ),
        "parsed": Measure(
            "Parsed",
            "parsed",
            "answers that could be read; the others count as wrong",
            METRICS["parsed"],
        ),
    },
    baselines={
        "untrained": "the model before training",
        "few-shot": "the same, shown four training examples first",
        "selfie": "the same, its vector at one of five lengths, chosen on training examples",
        "majority": "a constant answer",
        "majority-per-cell": "a constant answer",
        "majority-verdict-per-cell": "a constant answer",
        "nearest-vector": "the answer of its cell's training vector at the smallest angle",
        "nearest-text": "the answer of its cell's training question with the nearest words",
        "probe": "ridge regression from the vectors to the target's scores, or else to the verdict",
        "shifted-scores": "the target's scores with the hint, less what the hint adds on average",
    },
    room=40,
    schema=_schema(
        ("changed", pa.bool_()),
        ("content", pa.string()),
        ("predicted_changed", pa.bool_()),
        ("predicted_content", pa.string()),
        more=(CONFIDENCE,),
    ),
)

_NUMBERS = ("simulation", "simulation_paper", "calibrated", "detection", "fuzzing", "similarity")


def _number(name: str, title: str, meaning: str, *, brief: bool = True) -> Measure:
    return Measure(title, title[0].lower() + title[1:], meaning, mean_of(name), brief)


DESCRIPTIONS = Kind(
    name="descriptions",
    headline="simulation",
    carries="direction",
    measures={
        "simulation": _number(
            "simulation",
            "Simulation score",
            "correlation, with its sign, of the activations that the description predicts with "
            "the measured ones, over the highest and over random texts",
        ),
        "simulation_paper": _number(
            "simulation_paper",
            "Paper's |r|",
            "the size of that correlation over the highest texts alone: a description that says "
            "the opposite scores as high",
        ),
        "calibrated": _number(
            "calibrated",
            "Explained",
            "share of the activations' variance explained after a line fitted on other texts; "
            "less than nothing where the line misleads",
            brief=False,
        ),
        "detection": _number(
            "detection",
            "Detection",
            "chance that a text with the feature on is ranked above one with it off; 50 is "
            "guessing",
        ),
        "fuzzing": _number(
            "fuzzing",
            "Fuzzing",
            "chance that the right tokens marked are ranked above wrong ones; 50 is guessing",
            brief=False,
        ),
        "similarity": _number(
            "similarity", "Similarity", "cosine of the wording with that of the true description"
        ),
        "exact_match": _number(
            "exact_match", "Exact match", "word for word the true description", brief=False
        ),
        "parsed": _number(
            "parsed",
            "Parsed",
            "answers that say anything that can be checked; the others count as wrong",
        ),
    },
    baselines={
        "untrained": "the model before training",
        "few-shot": "the same, shown four training examples first",
        "majority": "the commonest description",
        "nearest-cosine": "the nearest training direction's, by angle",
        "nearest-dot": "the nearest one's by dot product, as in the paper",
        "selfie": "one length, chosen on training directions",
        "selfie-oracle": "best of five lengths for each score, as in the paper",
        "logit-lens": "tokens that the direction makes likelier",
        "gold": "the true descriptions",
    },
    room=80,
    schema=_schema(more=_NUMBERS),
    files=(SCORES, PREDICTIONS, EXAMPLES),
)

WORDS = Kind(
    name="words",
    headline="exact_match",
    carries="activation",
    measures={
        "exact_match": _number("exact_match", "Exact match", "every word right, in order"),
        "first": _number("first", "First word", "the first word right, whatever follows it"),
        "parsed": _number("parsed", "Parsed", "answers with a word in them", brief=False),
    },
    baselines={
        "untrained": "the model before training",
        "few-shot": "the same, shown four training examples first",
        "selfie": "the same, its vector at one of five lengths, chosen on training examples",
        "majority": "a constant answer",
        "majority-per-ask": "a constant answer",
        "majority-per-cell": "a constant answer",
        "nearest-vector": "the answer of its cell's training vector at the smallest angle",
        "nearest-text": "the answer of its cell's training question with the nearest words",
        "probe": "ridge regression from the vectors to the commonest 500 answers",
        "logit-lens": "the likeliest words that the head reads from the vector",
    },
    room=32,
    schema=_schema(("ask", pa.string()), ("first", pa.bool_()), more=(CONFIDENCE,)),
    by="ask",
)

KINDS: dict[str, Kind] = {
    PATCHING: VERDICTS,
    ABLATION: VERDICTS,
    FEATURES: DESCRIPTIONS,
    READING: WORDS,
}
"""The kind of each task's answers."""


def kind_of(task: str) -> Kind:
    """Returns the kind of a task's answers; those of a task not known here are verdicts."""
    return KINDS.get(task, VERDICTS)


def main_explainer(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the (explainer, control) that an evaluation is about: the trained one, its own input.

    Where all are baselines, the first.
    """
    if scores.get("lift"):
        return scores["lift"]["explainer"], "none"
    names = [(row["explainer"], row["control"]) for row in scores["rows"]]
    baselines = kind_of(scores["task"]).baselines
    return next((name for name in names if name[0] not in baselines), names[0])
