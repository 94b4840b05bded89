"""From answers to the files of an evaluation folder: `scores.json` and `predictions.parquet`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.evaluation.controls import CONTROLS
from selfx.evaluation.intervals import LEVEL, RESAMPLES, intervals, paired_differences
from selfx.evaluation.kinds import PREDICTIONS, SCORES, Kind, main_explainer
from selfx.evaluation.rows import Rows
from selfx.evaluation.scoring import BY_VERDICT, Answered, Scoring
from selfx.files import atomic, write_text

if TYPE_CHECKING:
    from selfx.tasks.example import Example

# Only these replace the vector and leave the text whole, so only these tell what the vector adds.
VECTOR_CONTROLS = tuple(name for name in CONTROLS if name != "none")


def build_scores(
    examples: Sequence[Example],
    answered: Sequence[Answered],
    *,
    target: str,
    scoring: Scoring = BY_VERDICT,
    resamples: int = RESAMPLES,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of `scores.json`: each run's metrics with intervals, and the lift.

    The lift is what the vector adds: the first explainer that was also run under a vector control,
    with its own vector, minus the best such control by the task's headline score. It is None where
    there is none. Kinds of answers that name a column to be told apart by have the same once more
    for each of its values, under `by_COLUMN`.
    """
    _check(examples, answered)
    how = {"resamples": resamples, "seed": seed}
    by = scoring.kind.by
    apart = {f"by_{by}": _apart(examples, answered, scoring, how)} if by else {}
    return {
        "task": examples[0].task,
        "target": target,
        "n": len(examples),
        "headline": scoring.kind.headline,
        **_scored(examples, answered, scoring, how),
        **apart,
        "provenance": {"intervals": _how(resamples, seed), **(provenance or {})},
    }


def write_evaluation(
    folder: str | Path,
    examples: Sequence[Example],
    answered: Sequence[Answered],
    *,
    target: str,
    scoring: Scoring = BY_VERDICT,
    resamples: int = RESAMPLES,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the scores, after writing them and all that they are of into the folder."""
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed, "provenance": provenance}
    scores = build_scores(examples, answered, target=target, scoring=scoring, **settings)
    main = main_explainer(scores)
    own = next(run for run in answered if (run.explainer, run.control) == main)
    for name, content in scoring.attached(examples, own).items():
        write_text(Path(folder) / name, _json(content))
    write_predictions(Path(folder) / PREDICTIONS, examples, answered, scoring)
    write_scores(Path(folder) / SCORES, scores)
    return scores


def write_scores(path: str | Path, scores: Mapping[str, Any]) -> None:
    """Writes the scores as JSON, whole or not at all."""
    write_text(Path(path), _json(scores))


def write_predictions(
    path: str | Path,
    examples: Sequence[Example],
    answered: Sequence[Answered],
    scoring: Scoring = BY_VERDICT,
) -> None:
    """Writes one row for each run and example as parquet, whole or not at all."""
    _check(examples, answered)
    rows = list(_rows(examples, answered, scoring))
    with atomic(Path(path)) as partial:
        table = pa.Table.from_pylist(rows, scoring.kind.schema)
        pq.write_table(table, partial, compression="zstd")


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


def _scored(
    examples: Sequence[Example],
    answered: Sequence[Answered],
    scoring: Scoring,
    how: Mapping[str, int],
) -> dict[str, Any]:
    """Returns each run's metrics with intervals, and the lift."""
    kind, rated = scoring.kind, scoring.rate(examples, answered)
    names = ((run.explainer, run.control) for run in answered)
    outcomes = dict(zip(names, rated, strict=True))
    rows = [
        {
            "explainer": explainer,
            "control": control,
            "metrics": intervals(result, kind.metrics, **how),
        }
        for (explainer, control), result in outcomes.items()
    ]
    return {"rows": rows, "lift": _lift(kind, outcomes, **how)}


def _apart(
    examples: Sequence[Example],
    answered: Sequence[Answered],
    scoring: Scoring,
    how: Mapping[str, int],
) -> dict[str, Any]:
    """Returns the size and the scores of each part of the examples, in the order of their names."""
    parts: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        parts.setdefault(str(example.details[scoring.kind.by]), []).append(row)
    return {
        name: {
            "n": len(rows),
            **_scored(
                [examples[row] for row in rows],
                [_some(run, rows) for run in answered],
                scoring,
                how,
            ),
        }
        for name, rows in sorted(parts.items())
    }


def _some(run: Answered, rows: Sequence[int]) -> Answered:
    """Returns some of a run's answers."""
    some = [[answers[row] for row in rows] for answers in (run.answers, *run.others)]
    return dataclasses.replace(run, answers=some[0], others=tuple(some[1:]))


def _how(resamples: int, seed: int) -> dict[str, Any]:
    return {"level": LEVEL, "clustered_by": "group", "resamples": resamples, "seed": seed}


def _lift(
    kind: Kind, outcomes: Mapping[tuple[str, str], Rows], *, resamples: int, seed: int
) -> dict[str, Any] | None:
    for explainer, control in outcomes:
        controls = [name for name in VECTOR_CONTROLS if (explainer, name) in outcomes]
        if control == "none" and controls:
            best = max(controls, key=lambda name: kind.headline_of(outcomes[explainer, name]))
            own, without = outcomes[explainer, "none"], outcomes[explainer, best]
            metrics = paired_differences(own, without, kind.metrics, resamples=resamples, seed=seed)
            return {"explainer": explainer, "control": best, "metrics": metrics}
    return None


def _rows(
    examples: Sequence[Example], answered: Sequence[Answered], scoring: Scoring
) -> Iterator[dict[str, Any]]:
    own = scoring.columns(examples, answered)
    for run in answered:
        for example, prediction in zip(examples, run.answers, strict=True):
            row = {
                "id": example.id,
                "explainer": run.explainer,
                "control": run.control,
                "question": example.question,
                "answer": example.answer,
                "prediction": prediction,
                "group": example.group,
                "cell": example.cell,
                **next(own),
            }
            yield {key: _encodable(v) if isinstance(v, str) else v for key, v in row.items()}


def _json(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _encodable(text) + "\n"


def _encodable(text: str) -> str:
    """Returns the text with "?" for half characters: models emit them, files cannot hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")
