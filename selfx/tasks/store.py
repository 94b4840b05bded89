"""Trace folders: writing shards, and reading ours and published ones back as examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfx.errors import SelfxError
from selfx.files import atomic, read_json
from selfx.tasks.example import Example
from selfx.tasks.hub import place_of
from selfx.tasks.published import (
    ablation_example,
    feature_example,
    patching_example,
    reading_example,
)
from selfx.tasks.rows import first_line
from selfx.tasks.schema import ABLATION, FEATURES, NEEDED, PATCHING, READING, is_list, task_of

TRACE = "trace.json"
SPLITS = ("train", "test")
ROWS_A_SHARD = 2000
_HINT = "make one with: selfx trace TASK --target MODEL --out DIR"


def write_shards(out: Path, schema: pa.Schema, tables: dict[str, list[pa.Table]]) -> dict[str, int]:
    """Rows written for each split, as `train-00000.parquet` and so on; other shards are removed."""
    counts, written = {}, set()
    for split, parts in tables.items():
        table = pa.concat_tables([schema.empty_table(), *parts]).combine_chunks()
        counts[split] = table.num_rows
        for shard in range(max(1, -(-table.num_rows // ROWS_A_SHARD))):
            path = out / f"{split}-{shard:05d}.parquet"
            with atomic(path) as temporary:
                pq.write_table(table.slice(shard * ROWS_A_SHARD, ROWS_A_SHARD), temporary)
            written.add(path)
    place = place_of(out)
    for stray in set(place.shards("train") + place.shards("test")) - written:
        stray.unlink()
    return counts


def load_trace(folder: str | Path) -> dict[str, Any]:
    """What `trace.json` says; of a folder of published shards, the task alone.

    Raises:
      SelfxError: there is no trace in the folder, or it is not finished.
    """
    place = place_of(folder)
    folder = place.folder
    if (folder / TRACE).exists():
        record = read_json(folder / TRACE, hint=_HINT)
        if not isinstance(record, dict) or record.get("task") not in NEEDED:
            raise SelfxError(
                f"{folder / TRACE} names no task", expected=f"one of {', '.join(NEEDED)}"
            )
        return record
    shards = [path for split in SPLITS for path in place.shards(split)]
    if not shards or (folder / ".blocks").exists():
        raise _no_trace(folder)
    task = task_of(_schema(shards[0]), shards[0])
    told: dict[str, Any] = {"target_hash": None, "settings": {}, "seed": None}
    return {"task": task, "target": place.target, **told}


def load_examples(folder: str | Path, split: str) -> list[Example]:
    """The examples of a split, in the order of their shards.

    Args:
      folder: a trace folder, one with published shards (`train-00000-of-00002.parquet`), or a data
        set of the hub, as `selfx.tasks.hub` names them.
      split: `train` or `test`.

    Raises:
      SelfxError: no trace, an unfinished one, an unknown split, a file that cannot be read, a
        column missing or of the wrong type.
    """
    if split not in SPLITS:
        raise SelfxError(f"split {split!r}", expected=f"one of {', '.join(SPLITS)}")
    task = load_trace(folder)["task"]
    shards = shards_of(folder, split)
    examples: list[Example] = []
    seen: set[str] = set()
    for path in shards:
        for example in _read(path, task, split, len(examples)):
            if example.id in seen:
                raise SelfxError(f"{path}: id {example.id} twice", expected="an id a row")
            seen.add(example.id)
            examples.append(example)
    return examples


def shards_of(folder: str | Path, split: str) -> list[Path]:
    """The files of a split, in order.

    Raises:
      SelfxError: there are none.
    """
    shards = place_of(folder).shards(split)
    if not shards:
        raise SelfxError(f"no {split}-*.parquet in {folder}", hint=_HINT)
    return shards


def files_of(folder: str | Path) -> list[Path]:
    """The files of both splits, in order of name."""
    place = place_of(folder)
    return sorted(path for split in SPLITS for path in place.shards(split))


def open_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a file.

    Raises:
      SelfxError: it is empty, cut off, or no parquet.
    """
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path, task: str, split: str, start: int) -> list[Example]:
    found = task_of(_schema(path), path)
    if found != task:
        raise SelfxError(f"{path} holds {found}", expected=task)
    table = open_parquet(path, [name for name in _schema(path).names if name != "excerpts"])
    _check_filled(table, task, path)
    vectors: Sequence[np.ndarray | None] = [None] * table.num_rows
    if task in _VECTOR_OF:
        column, table = _VECTOR_OF[task](table)
        if column is not None:
            vectors = (_several if is_list(column.type.value_type) else _vectors)(column, path)
    rows = zip(table.to_pylist(), vectors, strict=True)
    return [_example(task, row, held, split, start, n, path) for n, (row, held) in enumerate(rows)]


def _example(
    task: str,
    row: dict[str, Any],
    vectors: np.ndarray | None,
    split: str,
    start: int,
    number: int,
    path: Path,
) -> Example:
    """The example of row `number` of a file."""
    try:
        return _MAKERS[task](row, split, vectors, start + number)
    except SelfxError as error:
        told = {"expected": error.expected, "hint": error.hint}
        raise SelfxError(f"{path}, row {number}: {error.got}", **told) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SelfxError(
            f"{path}, row {number}: no example ({error!r})", expected=f"a row of {task}"
        ) from error


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _check_filled(table: pa.Table, task: str, path: Path) -> None:
    for name in NEEDED[task]:
        if empty := table[name].null_count:
            first = table[name].is_null().index(True).as_py()
            raise SelfxError(
                f"{path}: column {name} is empty in {empty} rows, first in row {first}",
                expected="something in every row",
            )


def _vectors(column: pa.Array, path: Path) -> Sequence[np.ndarray | None]:
    """float32 `[1, d]` of every row, without a Python object for every number."""
    if not len(column):
        return []
    width = len(column[0]) if column[0].is_valid else 0
    lengths = np.nan_to_num(pc.list_value_length(column).to_numpy(zero_copy_only=False))
    wrong = np.flatnonzero(lengths != width)
    if not width or len(wrong):
        row = wrong[0] if width else 0
        raise SelfxError(
            f"{path}: vectors of different widths: {int(lengths[row])} numbers in row {row}",
            expected=f"{width or 'some'} numbers each",
        )
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = flat.reshape(-1, 1, width)
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=(1, 2)))
    if len(wrong):
        raise SelfxError(
            f"{path}: a vector with a number that is not finite in row {wrong[0]}",
            expected="finite numbers",
        )
    return list(vectors)


def _several(column: pa.Array, path: Path) -> Sequence[np.ndarray | None]:
    """float32 `[m, d]` of every row, at least one vector in each."""
    counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if len(counts) and not counts.min():
        raise SelfxError(f"{path}: a row without vectors", expected="at least one in each")
    flat = [row for row in _vectors(column.flatten(), path) if row is not None]
    return np.split(np.concatenate(flat), np.cumsum(counts)[:-1]) if flat else []


def _patched(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """The vectors of patches, and the table without them."""
    column = table["patch_position"].combine_chunks()
    vectors = column.field("intervention_vector")
    names = [field.name for field in column.type if field.name != "intervention_vector"]
    rest = pa.StructArray.from_arrays([column.field(name) for name in names], names)
    place = table.schema.get_field_index("patch_position")
    return vectors, table.set_column(place, "patch_position", rest)


def _described(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """The directions that are described, and the table without them."""
    return table["vector"].combine_chunks(), table.drop_columns(["vector"])


def _read_at(table: pa.Table) -> tuple[pa.Array, pa.Table]:
    """The vectors, several a row, that are asked about, and the table without them."""
    return table["vectors"].combine_chunks(), table.drop_columns(["vectors"])


def _answering(table: pa.Table) -> tuple[pa.Array | None, pa.Table]:
    """The states in which the target was about to answer, if a trace keeps them, and the table
    without them."""
    if "vectors" not in table.column_names or table["vectors"].null_count == table.num_rows:
        return None, table.drop_columns([n for n in ("vectors",) if n in table.column_names])
    return _read_at(table)


_VECTOR_OF: dict[str, Callable[[pa.Table], tuple[pa.Array | None, pa.Table]]] = {
    PATCHING: _patched,
    FEATURES: _described,
    READING: _read_at,
    ABLATION: _answering,
}
_MAKERS = {
    PATCHING: patching_example,
    ABLATION: ablation_example,
    FEATURES: feature_example,
    READING: reading_example,
}


def _unreadable(path: Path, error: Exception) -> SelfxError:
    return SelfxError(
        f"{path} is no readable parquet file: {first_line(error)}",
        hint="it may be empty or cut off; make the trace again or copy the file again",
    )


def _no_trace(folder: Path) -> SelfxError:
    if (folder / ".blocks").exists():
        return SelfxError(
            f"the trace in {folder} is not finished",
            expected=f"a {TRACE} in it",
            hint="run the same selfx trace command again; it goes on where it stopped",
        )
    return SelfxError(f"no trace in {folder}", expected=f"{TRACE} and parquet shards", hint=_HINT)


__all__ = ["ABLATION", "PATCHING", "load_examples", "load_trace", "open_parquet", "write_shards"]
