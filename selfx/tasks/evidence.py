"""What a description is scored on: texts with a feature's activations, held apart from those that
it was made from. They are a column of the trace that training never reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.tasks.store import open_parquet, shards_of

_COLUMNS = ["id", "feature_idx", "excerpts", "promoted", "suppressed", "frequency"]


def load_evidence(folder: str | Path, split: str, ids: Sequence[str]) -> list[Evidence]:
    """The evidence of some examples, in the order of their ids.

    Args:
      folder: a trace of feature descriptions.
      split: `train` or `test`.
      ids: of its examples.

    Raises:
      SelfxError: no such trace, or one without texts for these examples.
    """
    found: dict[str, Evidence] = {}
    wanted = pa.array(list(dict.fromkeys(ids)), pa.string())
    for path in shards_of(folder, split):
        table = _opened(path)
        rows = table.filter(pc.is_in(table["id"], wanted)).to_pylist()
        found.update((row["id"], evidence_of_row(row)) for row in rows)
    missing = [each for each in ids if each not in found]
    if missing:
        raise SelfxError(
            f"no texts for {len(missing)} of {len(ids)} examples in {folder}, such as {missing[0]}",
            expected="the trace that the examples are from",
        )
    return [found[each] for each in ids]


def excerpt_row(excerpt: Excerpt) -> dict[str, Any]:
    """An excerpt as the trace's column holds it."""
    return {
        "pieces": list(excerpt.pieces),
        "ids": list(excerpt.ids or ()),
        "activations": excerpt.activations.astype(np.float32),
        "kind": excerpt.kind,
        "skip": excerpt.skip,
        "document": excerpt.document,
        "start": excerpt.start,
    }


def evidence_of_row(row: dict[str, Any]) -> Evidence:
    """The evidence in a row."""
    texts = tuple(_excerpt(each) for each in row["excerpts"] or ())
    high, low = (tuple(row[name] or ()) for name in ("promoted", "suppressed"))
    return Evidence(row["feature_idx"], texts, high, low, row["frequency"])


def _excerpt(row: dict[str, Any]) -> Excerpt:
    return Excerpt(
        pieces=tuple(row["pieces"]),
        activations=np.asarray(row["activations"], np.float32),
        kind=row["kind"],
        skip=row["skip"],
        document=row["document"],
        start=row["start"],
        ids=tuple(row["ids"]) or None,
    )


def _opened(path: Path) -> pa.Table:
    names = pq.read_schema(path).names
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise SelfxError(
            f"{path} lacks texts to score descriptions on: no column {', '.join(missing)}",
            expected="a trace made with: selfx trace feature-description",
        )
    return open_parquet(path, _COLUMNS)
