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
from selfx.evaluation.answers.kinds import CONFIDENCE, PREDICTIONS, SCORES, Kind, main_explainer
from selfx.evaluation.answers.scoring import BY_VERDICT, Answered, Scoring
from selfx.evaluation.evidence import calibrations, lift, paired, released
from selfx.evaluation.statistics.intervals import LEVEL, RESAMPLES, intervals
from selfx.evaluation.statistics.rows import Rows
from selfx.files import atomic, write_text

if TYPE_CHECKING:
    from selfx.tasks.example import Example

CANDIDATES = "candidates.json"
"""What oracles had to choose from, beside the one text that the predictions show."""


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

    The lift is what the vector adds: the first explainer that was also run without its vector, with
    it, minus the best without it by the task's headline score, be it the same explainer under a
    control or one trained on the text alone. It is None where there is none. Kinds of answers that
    name a column to be told apart by have the same once more for each of its values, under
    `by_COLUMN`. `selfx.evaluation.evidence` says what else there is.
    """
    _check(examples, answered)
    how = {"resamples": resamples, "seed": seed}
    kind, rated = scoring.kind, scoring.rate(examples, answered)
    scores = {
        "task": examples[0].task,
        "target": target,
        "n": len(examples),
        "headline": kind.headline,
        **_scored(kind, answered, rated, how),
    }
    outcomes, main = _named(answered, rated), main_explainer(scores)
    more = {
        f"by_{kind.by}": _apart(examples, answered, scoring, how) if kind.by else {},
        "paired": paired(kind, outcomes, main, **how),
        "released": released(kind, examples, answered, **how),
        "calibration": calibrations(answered, rated, **how),
    }
    return {
        **scores,
        **{name: found for name, found in more.items() if found},
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
    _write_candidates(Path(folder) / CANDIDATES, examples, answered)
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


def _write_candidates(
    path: Path, examples: Sequence[Example], answered: Sequence[Answered]
) -> None:
    """Writes every text of those who gave several, if there are any."""
    ids = [example.id for example in examples]
    rows = [
        {
            "explainer": run.explainer,
            "control": run.control,
            "texts": dict(zip(ids, zip(*run.others, strict=True), strict=True)),
        }
        for run in answered
        if run.others
    ]
    if rows:
        write_text(path, _json({"rows": rows}))
    else:
        path.unlink(missing_ok=True)


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


def _named(answered: Sequence[Answered], rated: Sequence[Rows]) -> dict[tuple[str, str], Rows]:
    names = ((run.explainer, run.control) for run in answered)
    return dict(zip(names, rated, strict=True))


def _scored(
    kind: Kind, answered: Sequence[Answered], rated: Sequence[Rows], how: Mapping[str, int]
) -> dict[str, Any]:
    """Returns each run's metrics with intervals, and the lift."""
    outcomes = _named(answered, rated)
    rows = [
        {
            "explainer": explainer,
            "control": control,
            "metrics": intervals(result, kind.metrics, **how),
        }
        for (explainer, control), result in outcomes.items()
    ]
    return {"rows": rows, "lift": lift(kind, outcomes, **how)}


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
    scored: dict[str, Any] = {}
    for name, rows in sorted(parts.items()):
        runs = [_some(run, rows) for run in answered]
        rated = scoring.rate([examples[row] for row in rows], runs)
        scored[name] = {"n": len(rows), **_scored(scoring.kind, runs, rated, how)}
    return scored


def _some(run: Answered, rows: Sequence[int]) -> Answered:
    """Returns some of a run's answers."""
    some = [[answers[row] for row in rows] for answers in (run.answers, *run.others)]
    return dataclasses.replace(run, answers=some[0], others=tuple(some[1:]), sure=None)


def _how(resamples: int, seed: int) -> dict[str, Any]:
    return {"level": LEVEL, "clustered_by": "group", "resamples": resamples, "seed": seed}


def _rows(
    examples: Sequence[Example], answered: Sequence[Answered], scoring: Scoring
) -> Iterator[dict[str, Any]]:
    own = scoring.columns(examples, answered)
    for run in answered:
        sure = [None] * len(examples) if run.sure is None else map(float, run.sure.confidence)
        for example, prediction, confidence in zip(examples, run.answers, sure, strict=True):
            row = {
                "id": example.id,
                "explainer": run.explainer,
                "control": run.control,
                "question": example.question,
                "answer": example.answer,
                "prediction": prediction,
                "group": example.group,
                "cell": example.cell,
                CONFIDENCE: confidence,
                **next(own),
            }
            yield {key: _encodable(v) if isinstance(v, str) else v for key, v in row.items()}


def _json(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _encodable(text) + "\n"


def _encodable(text: str) -> str:
    """Returns the text with "?" for half characters: models emit them, files cannot hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")
