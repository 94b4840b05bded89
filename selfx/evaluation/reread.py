"""The outcomes of an evaluation again, from its folder: to be compared with those of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import (
    PREDICTIONS,
    SCORES,
    VERDICTS,
    Kind,
    kind_of,
    main_explainer,
)
from selfx.evaluation.answers.metrics import Outcomes
from selfx.evaluation.answers.parsing import normalise
from selfx.evaluation.statistics.rows import Numbers, Rows
from selfx.files import read_json
from selfx.tasks.store import open_parquet


@dataclass(frozen=True)
class Reread:
    """What an evaluation folder says of one explainer.

    Attributes:
        scores: what `scores.json` holds.
        kind: of the answers.
        ids: the examples', in their order.
        rows: the outcomes.
    """

    scores: dict[str, Any]
    kind: Kind
    ids: tuple[str, ...]
    rows: Rows


def reread(folder: str | Path, control: str = "none") -> Reread:
    """Returns the outcomes of the explainer that an evaluation is about, under one control.

    Raises:
        SelfxError: there is no evaluation, or none under that control.
    """
    folder = Path(folder)
    scores = read_json(folder / SCORES, hint="selfx evaluate")
    kind = kind_of(scores["task"])
    explainer, _ = main_explainer(scores)
    table = open_parquet(folder / PREDICTIONS)
    of_it = pc.and_(pc.equal(table["explainer"], explainer), pc.equal(table["control"], control))
    table = table.filter(of_it)
    if not table.num_rows:
        known = sorted({row["control"] for row in scores["rows"]})
        raise SelfxError(
            f"no answers of {explainer} under {control!r} in {folder}",
            expected=f"one of {', '.join(known)}",
        )
    return Reread(scores, kind, tuple(table["id"].to_pylist()), outcomes_in(table, kind))


def outcomes_in(table: pa.Table, kind: Kind) -> Rows:
    """Returns the outcomes that some predictions of one explainer under one control hold."""
    return _outcomes(table, kind) if kind is VERDICTS else _numbers(table, kind)


def _outcomes(table: pa.Table, kind: Kind) -> Outcomes:
    column = {name: table[name].to_pylist() for name in table.column_names}
    said, true = column["predicted_content"], column["content"]
    equal = [
        p is not None and normalise(p) == normalise(c) for p, c in zip(said, true, strict=True)
    ]
    verdicts = [-1 if verdict is None else int(verdict) for verdict in column["predicted_changed"]]
    return Outcomes(
        gold_changed=np.array(column["changed"], bool),
        pred_changed=np.array(verdicts, np.int8),
        content_equal=np.array(equal, bool),
        exact=np.array(column["exact"], bool),
        parsed=np.array(column["parsed"], bool),
        group=_group(table),
    )


def _numbers(table: pa.Table, kind: Kind) -> Numbers:
    names = {name: "exact" if name == "exact_match" else name for name in kind.measures}
    held = {name: column for name, column in names.items() if column in table.column_names}
    values = {
        name: np.array(table[column].to_pylist(), np.float64) for name, column in held.items()
    }
    return Numbers(values, _group(table))


def _group(table: pa.Table) -> NDArray[Any]:
    return np.array(table["group"].to_pylist(), dtype=object)
