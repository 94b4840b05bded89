"""A trace made block by block: a kill loses one block, and the next run goes on from the others.

Block `i` is a function of the settings and `i` alone, so what is resumed is what would have been.
The folder `.blocks` goes only when the shards and then `trace.json` stand.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import selfx
from selfx.errors import SelfxError
from selfx.files import atomic, read_json, write_json
from selfx.models.config import Config
from selfx.run_folder import is_later
from selfx.tasks.balance import Kind, Quota, choose, summary
from selfx.tasks.rows import digest
from selfx.tasks.store import TRACE, open_parquet, write_shards
from selfx.weights.load import LanguageModel

BLOCKS = ".blocks"
DROPPED = b"dropped"
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Block:
    """A block's rows, and how many experiments had an outcome that cannot be used."""

    rows: list[dict[str, Any]]
    dropped: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A trace to make.

    Attributes:
      task: its name.
      target: the model's name, for people.
      settings: everything that decides the outcome, JSON values only.
      schema: columns of the blocks and of the shards.
      block: makes block `i`; rows already met are left out by their `id`.
      most_blocks: where to stop even if the quota is not met.
      quota: how many examples to keep.
      details: returns more to tell in `trace.json`.
    """

    task: str
    target: str
    settings: dict[str, Any]
    schema: pa.Schema
    block: Callable[[int], Block]
    most_blocks: int
    quota: Quota
    details: Callable[[], dict[str, Any]]
    shape: dict[str, int] = dataclasses.field(default_factory=dict)


def settings_of(
    task: str, target: LanguageModel, options: Any, *, data: str | Path, limit: int, seed: int
) -> dict[str, Any]:
    """What decides a trace, for `Plan.settings`: files are named by what they hold.

    Args:
      task: its name.
      target: the model to experiment on.
      options: a dataclass, whose fields are settings too.
      data: a file or folder.
      limit, seed: as they are.
    """
    return {
        "task": task,
        "target_hash": target.hash,
        "data": digest(data),
        "limit": limit,
        "seed": seed,
        **dataclasses.asdict(options),
    }


def shape_of(target: Config) -> dict[str, int]:
    """What an explainer of another shape must know of the target."""
    return {"n_layers": target.n_layers, "d_model": target.d_model}


def collect(plan: Plan, out: Path, progress: Progress) -> dict[str, Any]:
    """What `trace.json` says; makes or completes the trace, and leaves a finished one alone.

    Raises:
      SelfxError: `out` holds a trace with other settings, or something else.
    """
    finished = _finished(plan, out)
    if finished is not None:
        progress(plan.quota.total, plan.quota.total, "already finished with these settings")
        _tidy(out)
        return finished
    _claim(plan, out)
    found = _fill(plan, out, progress)
    if not found.chosen:
        raise SelfxError(
            f"no example in {len(found.kinds) + found.dropped} experiments, {found.dropped} of them"
            " with an outcome that cannot be put in words",
            hint="more data, another format or way of answering, or a larger model",
        )
    counts = write_shards(out, plan.schema, _chosen_tables(found))
    record = _record(plan, counts, found)
    write_json(out / TRACE, record)
    _tidy(out)
    return record


def _finished(plan: Plan, out: Path) -> dict[str, Any] | None:
    """The record of a trace that stands finished in `out` with the same settings."""
    if not (out / TRACE).exists():
        return None
    record = read_json(out / TRACE)
    given = record.get("settings") if isinstance(record, dict) else None
    _check_same(plan, given, out)
    return record


def _tidy(out: Path) -> None:
    """Removes the blocks, and what a killed write left beside the files it meant to write."""
    shutil.rmtree(out / BLOCKS, ignore_errors=True)
    for stray in (*out.glob(".*.parquet.*"), *out.glob(f".{TRACE}.*")):
        stray.unlink(missing_ok=True)


def _claim(plan: Plan, out: Path) -> None:
    """Marks the folder as this trace's, or finds that it is."""
    mark = out / BLOCKS / "settings.json"
    if mark.exists():
        _check_same(plan, read_json(mark), out)
        return
    if out.exists() and (not out.is_dir() or any(path.name != BLOCKS for path in out.iterdir())):
        raise SelfxError(
            f"{out} holds something that is not a trace",
            expected="a new or empty folder, or a trace to go on with",
            hint="use another --out",
        )
    write_json(mark, plan.settings)


def _check_same(plan: Plan, given: Any, out: Path) -> None:
    wanted = json.loads(json.dumps(plan.settings))
    given = given if isinstance(given, dict) else {}
    different = [
        key
        for key in {**wanted, **given}
        if wanted.get(key) != given.get(key) and not is_later(given.get(key), wanted.get(key))
    ]
    if not different:
        return
    asked = ", ".join(f"{key}={wanted.get(key)!r}" for key in different)
    there = ", ".join(f"{key}={given.get(key)!r}" for key in different)
    raise SelfxError(
        f"{out} holds a trace with other settings: asked for {asked}",
        expected=there,
        hint="use another --out, or the same settings to go on with that trace",
    )


@dataclasses.dataclass
class _Found:
    """Blocks so far, the kinds of their rows, which of them to keep, and how many were dropped."""

    paths: list[Path] = dataclasses.field(default_factory=list)
    kinds: list[Kind] = dataclasses.field(default_factory=list)
    chosen: list[int] = dataclasses.field(default_factory=list)
    dropped: int = 0


def _fill(plan: Plan, out: Path, progress: Progress) -> _Found:
    """Blocks made and found until the quota is met."""
    found = _Found()
    seen: set[str] = set()
    progress(0, plan.quota.total, "")
    while len(found.chosen) < plan.quota.total and len(found.paths) < plan.most_blocks:
        path = out / BLOCKS / f"{len(found.paths):05d}.parquet"
        if not path.exists():
            _make(plan, len(found.paths), path, seen)
        table = open_parquet(path, ["id", "split", "cell", "changed"])
        seen.update(table["id"].to_pylist())
        kinds = (Kind(row["split"], row["cell"], row["changed"]) for row in table.to_pylist())
        found.paths.append(path)
        found.kinds.extend(kinds)
        found.dropped += int(table.schema.metadata[DROPPED])
        found.chosen = choose(found.kinds, plan.quota)
        progress(len(found.chosen), plan.quota.total, f"{len(found.kinds)} experiments")
    if len(found.chosen) < plan.quota.total:
        found.chosen = choose(found.kinds, plan.quota, last=True)
    return found


def _make(plan: Plan, number: int, path: Path, seen: set[str]) -> None:
    """Writes a block, without the rows that earlier ones hold."""
    block = plan.block(number)
    rows = list({row["id"]: row for row in block.rows if row["id"] not in seen}.values())
    table = pa.Table.from_pylist(rows, plan.schema)
    with atomic(path) as temporary:
        metadata = {DROPPED: str(block.dropped)}
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def _chosen_tables(found: _Found) -> dict[str, list[pa.Table]]:
    """The kept rows of every block, by split."""
    tables: dict[str, list[pa.Table]] = {"train": [], "test": []}
    start, keep = 0, set(found.chosen)
    for path in found.paths:
        table = open_parquet(path)
        here = [index for index in range(table.num_rows) if start + index in keep]
        start += table.num_rows
        table = table.take(pa.array(here, pa.int64()))
        for split, parts in tables.items():
            parts.append(table.filter(pc.equal(table["split"], split)))
    return tables


def _record(plan: Plan, counts: dict[str, int], found: _Found) -> dict[str, Any]:
    return {
        "task": plan.task,
        "target": plan.target,
        "target_hash": plan.settings["target_hash"],
        "shape": plan.shape,
        "settings": plan.settings,
        "seed": plan.settings["seed"],
        "version": selfx.__version__,
        "counts": counts,
        "balance": {
            "experiments": summary(found.kinds),
            "kept": summary([found.kinds[index] for index in found.chosen]),
            "dropped": found.dropped,
        },
        "columns": plan.schema.names,
        **plan.details(),
    }
