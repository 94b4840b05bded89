"""From ratings to scores with intervals, and to how far judges agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfx.evaluation.answers.kinds import SCORES, main_explainer
from selfx.evaluation.controls import WITHOUT_VECTOR
from selfx.evaluation.judge.agreement import agreement
from selfx.evaluation.judge.kept import Rated, load_ratings
from selfx.evaluation.judge.work import Row
from selfx.evaluation.statistics.intervals import interval, paired_difference
from selfx.evaluation.statistics.rows import Numbers, mean_of
from selfx.files import read_json

Name = tuple[str, str]
SCORE = mean_of("score")
EVERYBODY, OWN = "everybody's answers", "the explainer's own answers"


def summarise(folder: Path, digest: str, seed: int = 0) -> dict[str, Any]:
    """What `judged.json` holds: every judge's scores of every row, and all judges two by two.

    Args:
      folder: of the evaluation.
      digest: of its predictions.
      seed: of the bootstrap.
    """
    main = main_explainer(read_json(folder / SCORES))
    rated = load_ratings(folder, digest)
    found = {
        "predictions": digest,
        "main": {"explainer": main[0], "control": main[1]},
        "judges": [_judge(each, main, seed) for each in rated],
        "agreement": [
            told for pair in itertools.combinations(rated, 2) for told in _agree(*pair, main, seed)
        ],
    }
    return _defined(found)


def _judge(rated: Rated, main: Name, seed: int) -> dict[str, Any]:
    rows: dict[Name, list[Row]] = {}
    for row in rated.rows:
        rows.setdefault((row["explainer"], row["control"]), []).append(row)
    return {
        "judge": rated.name,
        "about": rated.about,
        "n": max(map(len, rows.values()), default=0),
        "rows": [_scored(name, some, seed) for name, some in rows.items()],
        "lift": _lift(rows, main, seed),
    }


def _scored(name: Name, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    numbers = _numbers(rows)
    column = numbers.values["score"]
    error = column.std(ddof=1) / math.sqrt(len(column)) if len(column) > 1 else math.nan
    return {
        "explainer": name[0],
        "control": name[1],
        "score": interval(SCORE, numbers, seed=seed),
        "standard_error": float(error),
        "asked": sum(row["asked"] for row in rows),
        "unread": sum(row["unread"] for row in rows),
    }


def _lift(rows: Mapping[Name, Sequence[Row]], main: Name, seed: int) -> dict[str, Any] | None:
    """What the vector adds to the explainer's score, over the best control of the vector."""
    numbers = {
        name: _numbers(rows[main[0], name])
        for name in WITHOUT_VECTOR
        if (main[0], name) in rows and main in rows
    }
    if not numbers:
        return None
    best = max(numbers, key=lambda name: float(SCORE(numbers[name], None)))
    difference = paired_difference(SCORE, _numbers(rows[main]), numbers[best], seed=seed)
    return {"explainer": main[0], "control": best, "score": difference}


def _numbers(rows: Sequence[Row]) -> Numbers:
    group = np.array([row["group"] for row in rows], dtype=object)
    return Numbers({"score": np.array([row["score"] for row in rows], float)}, group)


def _agree(one: Rated, other: Rated, main: Name, seed: int) -> Iterator[dict[str, Any]]:
    """How far two judges agree where both gave a rating that could be read."""
    theirs = {(row["id"], row["explainer"], row["control"]): row["rating"] for row in other.rows}
    both = [
        (row, row["rating"], theirs.get((row["id"], row["explainer"], row["control"])))
        for row in one.rows
    ]
    read = [(row, a, b) for row, a, b in both if a is not None and b is not None]
    own = [each for each in read if (each[0]["explainer"], each[0]["control"]) == main]
    for over, some in ((EVERYBODY, read), (OWN, own)):
        if len(some) > 1:
            rows, a, b = zip(*some, strict=True)
            groups = np.array([row["group"] for row in rows], dtype=object)
            measures = agreement(np.array(a), np.array(b), groups, seed=seed)
            yield {"a": one.name, "b": other.name, "over": over, "n": len(some), **measures}


def _defined(value: Any) -> Any:
    """The value with None for numbers that are none."""
    if isinstance(value, dict):
        return {key: _defined(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_defined(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
