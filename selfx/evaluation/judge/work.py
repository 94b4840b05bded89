"""What there is to judge in an evaluation folder: each answer of everybody, and the distinct pairs.

An oracle's row is of several candidates; all of them are judged and the best counts, as in arXiv
2511.08579.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import DESCRIPTIONS, PREDICTIONS, SCORES, kind_of
from selfx.evaluation.judge.rating import Pair, score
from selfx.evaluation.scores import CANDIDATES
from selfx.files import read_json

Row = dict[str, Any]
_COLUMNS = ["id", "explainer", "control", "group", "answer", "prediction"]
_EVALUATE = "selfx evaluate --data DIR --explainer RUN --out DIR"

Texts = Mapping[tuple[str, str, str], Sequence[str]]
"""The candidates of oracles, by explainer, control and example."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of the predictions.

    Attributes:
      id, explainer, control, group: as there.
      expected: the true description.
      candidates: what was said: of all but oracles one text.
    """

    id: str
    explainer: str
    control: str
    group: str
    expected: str
    candidates: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        """What is to be rated: nothing of an empty description."""
        said = dict.fromkeys(text for text in self.candidates if text.strip())
        return [(text, self.expected) for text in said]

    def judged(self, ratings: Mapping[Pair, float | None]) -> Row:
        """The row of the folder's table: the best rating, and what it is worth."""
        given = [ratings[pair] for pair in self.pairs]
        read = [each for each in given if each is not None]
        best = max(read, default=None)
        return {
            "id": self.id,
            "explainer": self.explainer,
            "control": self.control,
            "group": self.group,
            "rating": best,
            "score": score(best),
            "asked": len(given),
            "unread": len(given) - len(read),
        }


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be judged.

    Attributes:
      folder: of the evaluation.
      items: in the order of its predictions.
      digest: changes with the predictions.
    """

    folder: Path
    items: tuple[Item, ...]
    digest: str

    @property
    def pairs(self) -> list[Pair]:
        """The distinct pairs; nobody is asked twice about one."""
        return list(dict.fromkeys(pair for item in self.items for pair in item.pairs))

    @property
    def descriptions(self) -> list[str]:
        """The distinct true descriptions."""
        return list(dict.fromkeys(item.expected for item in self.items))


def look(folder: str | Path, limit: int = 0, seed: int = 0) -> Work:
    """What a folder holds to judge.

    Args:
      folder: of an evaluation.
      limit: how many examples, drawn by seed, the fewer among the more; 0 is all.
      seed: of the draw.

    Raises:
      SelfxError: no evaluation, or one whose answers are no descriptions.
    """
    folder = Path(folder)
    task = _task(folder)
    if kind_of(task) is not DESCRIPTIONS:
        raise SelfxError(
            f"{folder}, an evaluation of {task}",
            expected="one of feature-description",
            hint="its answers are right or wrong, which scores.json says exactly",
        )
    texts, rows = _candidates(folder), _predictions(folder)
    drawn = _drawn([row["id"] for row in rows], limit, seed)
    items = [_item(row, texts) for row in rows]
    return Work(folder, tuple(item for item in items if item.id in drawn), _digest(items))


def _task(folder: Path) -> str:
    scores = read_json(folder / SCORES, hint=_EVALUATE)
    task = scores.get("task") if isinstance(scores, dict) else None
    if not isinstance(task, str):
        raise SelfxError(f"{folder / SCORES} names no task", hint=_EVALUATE)
    return task


def _predictions(folder: Path) -> list[Row]:
    path = folder / PREDICTIONS
    try:
        return pq.read_table(path, columns=_COLUMNS, partitioning=None).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SelfxError(
            f"{path} cannot be read: {error}",
            expected=f"the columns {', '.join(_COLUMNS)}",
            hint=_EVALUATE,
        ) from error


def _item(row: Row, texts: Texts) -> Item:
    said = row["prediction"]
    others = texts.get((row["explainer"], row["control"], row["id"]), ())
    names = {name: row[name] for name in ("id", "explainer", "control", "group")}
    return Item(**names, expected=row["answer"], candidates=tuple(dict.fromkeys((said, *others))))


def _candidates(folder: Path) -> Texts:
    path = folder / CANDIDATES
    if not path.exists():
        return {}
    try:
        return {
            (row["explainer"], row["control"], name): texts
            for row in read_json(path)["rows"]
            for name, texts in row["texts"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise SelfxError(f"{path} cannot be read: {error!r}", hint=_EVALUATE) from error


def _drawn(ids: Sequence[str], limit: int, seed: int) -> set[str]:
    distinct = sorted(set(ids))
    if limit < 1:
        return set(distinct)
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[index] for index in order[:limit]}


def _digest(items: Sequence[Item]) -> str:
    whole = hashlib.sha256()
    for item in items:
        whole.update(repr(dataclasses.astuple(item)).encode("utf-8", "replace"))
    return whole.hexdigest()[:16]
