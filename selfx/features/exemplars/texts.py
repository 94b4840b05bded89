"""Texts from a file: what a corpus is made of."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfx.errors import SelfxError

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
COLUMN = "text"
_TITLE = re.compile(r"^(?= = [^=\n].* =[ \t]*$)", re.MULTILINE)


def read_texts(path: str | Path) -> list[str]:
    """The documents in a file, those without a word left out.

    Args:
      path: plain text (`.txt`, `.txt.gz`), one document or, where there are lines such as
        ` = Title = ` as WikiText has them, a document from each of these to the next; or rows with
        a column `text`, a document each (`.jsonl`, `.jsonl.gz`, `.parquet`).

    Raises:
      SelfxError: no such file, one that cannot be read, a row without a text, or not one word.
    """
    path = Path(path).expanduser()
    if not path.is_file() or not path.name.endswith(SUFFIXES):
        raise SelfxError(
            f"{path} is no file of texts" if path.exists() else f"no file {path}",
            expected=f"a file whose name ends in {', '.join(SUFFIXES)}",
        )
    texts = [text for text in _documents(path) if text.strip()]
    if not texts:
        raise SelfxError(f"{path} holds no text", expected="at least one word")
    return texts


def _documents(path: Path) -> Iterator[str]:
    if path.name.endswith(".parquet"):
        return _of_table(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _of_lines(path)
    return iter(_TITLE.split("".join(_lines(path))))


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SelfxError(
            f"{path} cannot be read: {error}", expected="text in UTF-8, packed if it ends in .gz"
        ) from error


def _of_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _text_of(line, f"{path}:{number}")


def _text_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SelfxError(f"{where}: {error}", expected="one JSON object a line") from None
    if not isinstance(row, dict):
        raise SelfxError(f"{where}: {line.strip()[:60]}", expected="a JSON object")
    if COLUMN not in row:
        raise _no_column(where, row)
    return _checked(row[COLUMN], where)


def _of_table(path: Path) -> Iterator[str]:
    try:
        names = pq.read_schema(path).names
        if COLUMN not in names:
            raise _no_column(str(path), names)
        column = pq.read_table(path, columns=[COLUMN], partitioning=None)[COLUMN]
    except (pa.ArrowException, OSError) as error:
        why = str(error).split("\n")[0]
        raise SelfxError(f"{path} is no readable parquet file: {why}") from error
    for number, value in enumerate(column.to_pylist()):
        yield _checked(value, f"{path}, row {number}")


def _checked(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    raise SelfxError(f"{where}: {COLUMN} = {str(value)[:60]}", expected="a text")


def _no_column(where: str, names: Any) -> SelfxError:
    found = ", ".join(sorted(map(str, names))) or "nothing"
    return SelfxError(f"{where}: no column {COLUMN!r}", expected=f"texts in it; there is {found}")
