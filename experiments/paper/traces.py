"""The traces of an experiment: found, made, of the published archive, or cut to a share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.paper.archive import trace_of_archive
from experiments.paper.scales import Questions
from selfx.files import write_json
from selfx.progress import progress
from selfx.tasks.schema import FEATURES
from selfx.tasks.split import short_hash
from selfx.tasks.store import (
    SPLITS,
    TRACE,
    load_examples,
    load_trace,
    open_parquet,
    shards_of,
    write_shards,
)
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel

Loaded = Callable[[], LanguageModel]


def placed(questions: Questions, out: Path, target: Loaded) -> Path:
    """Where a trace is, once it is there; the target is only loaded to make one."""
    if questions.published and questions.task != FEATURES:
        return Path(questions.published)
    if (out / TRACE).exists():
        return out
    if questions.published:
        lm = target()
        return trace_of_archive(questions.published, out, lm, limit=questions.limit)
    with progress(f"tracing {questions.name}") as report:
        trace(
            questions.task,
            target(),
            out,
            data=questions.data,
            limit=questions.limit,
            progress=report,
            **questions.options,
        )
    return out


def part(folder: Path, share: float, out: Path, seed: int = 0) -> Path:
    """A trace with a share of another's training groups, and all of its test split.

    Groups are taken in an order that the seed gives, so that a larger share holds a smaller one.
    """
    if share >= 1:
        return folder
    if (out / TRACE).exists():
        return out
    groups = [example.group for example in load_examples(folder, "train")]
    order = sorted(set(groups), key=lambda group: short_hash(seed, group))
    kept = set(order[: max(1, round(share * len(order)))])
    tables = {split: _whole(folder, split) for split in SPLITS}
    tables["train"] = tables["train"].filter(pa.array([group in kept for group in groups]))
    named = {split: [table] for split, table in tables.items()}
    counts = write_shards(out, tables["train"].schema, named)
    record = load_trace(folder) | {"counts": counts, "share": share}
    write_json(out / TRACE, record)
    return out


def counted(questions: Questions, folder: Path) -> int:
    """How many training examples there are, or, before there is a trace, are wanted."""
    if not (folder / TRACE).exists():
        held_out = questions.options.get("test_share", 0.25)
        return questions.limit if questions.published else round(questions.limit * (1 - held_out))
    return int(load_trace(folder)["counts"]["train"])


def _whole(folder: Path, split: str) -> pa.Table:
    return pa.concat_tables([open_parquet(path) for path in shards_of(folder, split)])


def told(questions: Questions) -> dict[str, Any]:
    """What is kept of a trace's settings: no folders of this machine."""
    data = None if questions.data is None else Path(questions.data).name
    options = {k: Path(v).name if k == "facts" else v for k, v in questions.options.items()}
    return dataclasses.asdict(questions) | {"data": data, "options": options}


def spread(values: np.ndarray) -> dict[str, float]:
    """The mean and the range of some numbers."""
    return {"mean": float(values.mean()), "least": float(values.min()), "most": float(values.max())}
