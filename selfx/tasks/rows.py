"""Rows of a data file or a hub data set, each with a name to blame it by."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from selfx.errors import SelfxError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
Rows = Iterator[tuple[str, dict[str, Any]]]


def read_rows(source: str | Path) -> Rows:
    """`(where, row)` of every row, `where` naming file and line.

    Args:
      source: a `.jsonl`, `.jsonl.gz` or `.parquet` file, or a hub id `owner/name[:config]`.

    Raises:
      SelfxError: no such file, nothing in it, or something that is not a row.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        if not _is_hub_id(str(source)):
            raise _not_found(source)
        rows = _hub(str(source))
    elif path.name.endswith(".parquet"):
        rows = _parquet(path)
    elif path.name.endswith(SUFFIXES):
        rows = _lines(path)
    else:
        raise SelfxError(f"data file {path}", expected=f"a name ending in {', '.join(SUFFIXES)}")
    empty = True
    for where, row in rows:
        empty = False
        yield where, row
    if empty:
        raise SelfxError(f"{source} is empty", expected="at least one row")


def digest(source: str | Path) -> str:
    """The SHA-256 of a file, or of all files in a folder; a hub id stands for itself."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        parts = (f"{file.relative_to(path)} {digest(file)}\n" for file in files)
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(source)


def text_field(row: dict[str, Any], name: str, where: str) -> str:
    """The row's text under `name`.

    Raises:
      SelfxError: it is missing, no text, or blank.
    """
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return value
    given = f"{name} = {value!r}" if name in row else f"no {name!r} (it has {_names(row)})"
    raise SelfxError(f"{where}: {given}", expected=f"a text {name!r}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).split("\n")[0] or repr(error)


def _names(row: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, row))) or "nothing"


def _lines(path: Path) -> Rows:
    opener = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", json_object(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SelfxError(f"{path} cannot be read after line {number}: {error}") from error


def json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object that a line holds.

    Raises:
      SelfxError: it holds something else.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SelfxError(f"{where}: {error}", expected="one JSON object a line") from None
    if not isinstance(row, dict):
        raise SelfxError(f"{where}: {line.strip()[:60]}", expected="a JSON object")
    return row


def _parquet(path: Path) -> Rows:
    try:
        for index, row in enumerate(pq.read_table(path).to_pylist()):
            yield f"{path}, row {index}", row
    except (ArrowException, OSError) as error:
        raise SelfxError(f"{path} is no readable parquet file: {error}") from error


def _is_hub_id(source: str) -> bool:
    return bool(re.fullmatch(r"[\w-]+/[\w.-]+(:[\w.-]+)?", source)) and not source.endswith(
        SUFFIXES
    )


def _not_found(source: str | Path) -> SelfxError:
    return SelfxError(
        f"no data {str(source)!r}",
        expected=f"a file ({', '.join(SUFFIXES)}) or a hub id owner/name[:config]",
        hint="leave --data out to use the data that comes with selfx",
    )


def _hub(source: str) -> Rows:
    import datasets  # a second's import, only for who uses the hub

    name, _, config = source.partition(":")
    try:
        splits = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub's client raises a dozen kinds of its own
        raise SelfxError(
            f"cannot load data set {source!r}: {first_line(error)}",
            expected="a public data set and a network",
            hint="give a local file by --data, or leave --data out",
        ) from error
    for split in sorted(splits):
        for index, row in enumerate(splits[split]):
            yield f"{source}, {split} row {index}", row
