"""Ratings on disk, beside an evaluation's own files.

judged/JUDGE-….parquet   a row for each answer: rating, score, how many were asked, how many unread
judged.json              all judges' scores with intervals, and how far the judges agree

A judge's ratings are of the predictions that it saw: of a folder evaluated anew they are passed
over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfx.evaluation.judge.raters import Judge
from selfx.evaluation.judge.work import Row, Work, look
from selfx.files import atomic, read_json, write_json

JUDGED = "judged.json"
RATINGS = "judged"

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "explainer", "control", "group")),
        ("rating", pa.float64()),
        ("score", pa.float64()),
        ("asked", pa.int64()),
        ("unread", pa.int64()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Rated:
    """What one judge said.

    Attributes:
      name: the judge's.
      about: who it is.
      rows: in the order of the predictions.
    """

    name: str
    about: dict[str, Any]
    rows: list[Row]


def write_ratings(work: Work, judge: Judge, rows: Sequence[Row]) -> None:
    """Writes a judge's ratings, in place of its earlier ones."""
    told = {"name": judge.name, "about": judge.about, "predictions": work.digest}
    schema = SCHEMA.with_metadata({"judge": json.dumps(told)})
    with atomic(_path(work.folder, judge)) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), partial, compression="zstd")


def is_judged(work: Work, judge: Judge) -> bool:
    """Whether a judge has rated all of this."""
    read = _read(_path(work.folder, judge), work.digest)
    known = set() if read is None else {_key(row) for row in read.rows}
    return known >= {(item.id, item.explainer, item.control) for item in work.items}


def load_ratings(folder: str | Path, digest: str = "") -> list[Rated]:
    """What each judge said of a folder's predictions, in the order of the judges' names.

    Two judges of one name (another endpoint, another prompt) have a part of their digest after it.
    """
    folder = Path(folder)
    digest = digest or look(folder).digest
    paths = sorted((folder / RATINGS).glob("*.parquet"))
    found = [rated for path in paths if (rated := _read(path, digest)) is not None]
    names = [rated.name for rated in found]
    return [
        rated
        if names.count(rated.name) == 1
        else dataclasses.replace(rated, name=f"{rated.name} {digest_of(rated.about)[:4]}")
        for rated in found
    ]


def write_judged(folder: Path, summary: dict[str, Any]) -> None:
    """Writes what `load_judged` reads."""
    write_json(folder / JUDGED, summary)


def load_judged(folder: str | Path) -> dict[str, Any] | None:
    """All judges' scores and agreement; None where nobody judged these predictions.

    `{"predictions", "judges": [{"judge", "about", "n", "rows": [{"explainer", "control", "score":
    {"value", "low", "high"}, "standard_error", "asked", "unread"}], "lift"}], "agreement": [{"a",
    "b", "over", "n", "spearman": {…}, "kendall": {…}, "kappa": {…}}]}`; what is not defined is
    None.

    Raises:
      SelfxError: no evaluation there, or a file that cannot be read.
    """
    path = Path(folder) / JUDGED
    if not path.exists():
        return None
    found = read_json(path, hint="delete it and judge again: nobody is asked twice")
    same = isinstance(found, dict) and found.get("predictions") == look(folder).digest
    return found if same else None


def digest_of(about: dict[str, Any]) -> str:
    """Changes with who a judge is."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def label_of(judge: Judge) -> str:
    """A judge's name as part of a path."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", judge.name).strip("-.")[-60:]
    return f"{plain}-{digest_of(judge.about)}"


def _path(folder: Path, judge: Judge) -> Path:
    return folder / RATINGS / f"{label_of(judge)}.parquet"


def _read(path: Path, digest: str) -> Rated | None:
    """What a file holds; None where there is none, or of other predictions."""
    try:
        table = pq.read_table(path, partitioning=None)
        told = json.loads((table.schema.metadata or {})[b"judge"])
        if told["predictions"] != digest:
            return None
        return Rated(told["name"], told["about"], table.select(SCHEMA.names).to_pylist())
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _key(row: Row) -> tuple[str, str, str]:
    return row["id"], row["explainer"], row["control"]
