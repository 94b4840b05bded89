"""From answers to the files of an evaluation folder: `scores.json` and `predictions.parquet`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.evaluation.controls import CONTROLS
from selfx.evaluation.intervals import LEVEL, RESAMPLES, intervals, paired_differences
from selfx.evaluation.metrics import Outcomes, score
from selfx.evaluation.parsing import parse
from selfx.files import atomic, write_text

if TYPE_CHECKING:
    from selfx.tasks.example import Example

SCORES = "scores.json"
PREDICTIONS = "predictions.parquet"
# Only these replace the vector and leave the text whole, so only these tell what the vector adds.
VECTOR_CONTROLS = tuple(name for name in CONTROLS if name != "none")
SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("id", "explainer", "control", "question", "answer")],
        ("prediction", pa.string()),
        ("changed", pa.bool_()),
        ("content", pa.string()),
        ("predicted_changed", pa.bool_()),
        ("predicted_content", pa.string()),
        ("parsed", pa.bool_()),
        ("exact", pa.bool_()),
        ("group", pa.string()),
        ("cell", pa.string()),
    ]
)


@dataclass(frozen=True)
class Answered:
    """What one explainer answered under one control.

    Attributes:
        explainer: Its name, or a baseline's.
        control: What it was fed: "none" (its own vector), "zero", "shuffled", "rotated", "no-text".
        answers: One text for each example, in the examples' order.
    """

    explainer: str
    control: str
    answers: Sequence[str]


def build_scores(
    examples: Sequence[Example],
    answered: Sequence[Answered],
    *,
    target: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of `scores.json`: each run's metrics with intervals, and the lift.

    The lift is what the vector adds: the first explainer that was also run under a vector control,
    with its own vector, minus the best such control by exact match. It is None where there is none.
    """
    _check(examples, answered)
    outcomes = {(run.explainer, run.control): score(examples, run.answers) for run in answered}
    return {
        "task": examples[0].task,
        "target": target,
        "n": len(examples),
        "rows": [
            {
                "explainer": explainer,
                "control": control,
                "metrics": intervals(result, resamples=resamples, seed=seed),
            }
            for (explainer, control), result in outcomes.items()
        ],
        "lift": _lift(outcomes, resamples=resamples, seed=seed),
        "provenance": {
            "intervals": {
                "level": LEVEL,
                "clustered_by": "group",
                "resamples": resamples,
                "seed": seed,
            },
            **(provenance or {}),
        },
    }


def write_evaluation(
    folder: str | Path,
    examples: Sequence[Example],
    answered: Sequence[Answered],
    *,
    target: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the scores, after writing them and the predictions into the folder."""
    scores = build_scores(
        examples, answered, target=target, resamples=resamples, seed=seed, provenance=provenance
    )
    write_predictions(Path(folder) / PREDICTIONS, examples, answered)
    write_scores(Path(folder) / SCORES, scores)
    return scores


def write_scores(path: str | Path, scores: Mapping[str, Any]) -> None:
    """Writes the scores as JSON, whole or not at all."""
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(Path(path), _encodable(text) + "\n")


def write_predictions(
    path: str | Path, examples: Sequence[Example], answered: Sequence[Answered]
) -> None:
    """Writes one row for each run and example as parquet, whole or not at all."""
    _check(examples, answered)
    rows = [row for run in answered for row in _rows(examples, run)]
    with atomic(Path(path)) as partial:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")


def _check(examples: Sequence[Example], answered: Sequence[Answered]) -> None:
    if not examples:
        raise SelfxError("no examples", expected="at least one", hint="a test split with rows")
    tasks = sorted({example.task for example in examples})
    if len(tasks) > 1:
        raise SelfxError(
            f"examples of the tasks {', '.join(tasks)}",
            expected="one task",
            hint="evaluate each into its own folder; `selfx report` takes several",
        )
    names = [(run.explainer, run.control) for run in answered]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SelfxError(
            f"answers given twice for {' under '.join(twice[0])}",
            expected="one run for each explainer and control",
        )


def _lift(
    outcomes: Mapping[tuple[str, str], Outcomes], *, resamples: int, seed: int
) -> dict[str, Any] | None:
    for explainer, control in outcomes:
        controls = [name for name in VECTOR_CONTROLS if (explainer, name) in outcomes]
        if control == "none" and controls:
            best = max(controls, key=lambda name: outcomes[explainer, name].exact.mean())
            own, without = outcomes[explainer, "none"], outcomes[explainer, best]
            metrics = paired_differences(own, without, resamples=resamples, seed=seed)
            return {"explainer": explainer, "control": best, "metrics": metrics}
    return None


def _rows(examples: Sequence[Example], run: Answered) -> Iterator[dict[str, Any]]:
    exact = score(examples, run.answers).exact
    for example, prediction, hit in zip(examples, run.answers, exact, strict=True):
        parsed = parse(prediction)
        row = {
            "id": example.id,
            "explainer": run.explainer,
            "control": run.control,
            "question": example.question,
            "answer": example.answer,
            "prediction": prediction,
            "changed": bool(example.changed),
            "content": example.content,
            "predicted_changed": parsed.changed,
            "predicted_content": parsed.content,
            "parsed": parsed.ok,
            "exact": bool(hit),
            "group": example.group,
            "cell": example.cell,
        }
        yield {key: _encodable(v) if isinstance(v, str) else v for key, v in row.items()}


def _encodable(text: str) -> str:
    """Returns the text with "?" for half characters: models emit them, files cannot hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")
