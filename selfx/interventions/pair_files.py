"""What one patch is, and files of them: one JSON object a line, in and out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfx.errors import SelfxError
from selfx.files import write_text
from selfx.models.config import Config

Value = Literal["per_layer", "first", "mean"]
VALUES: tuple[Value, ...] = ("per_layer", "first", "mean")
_LINE = (
    'lines such as {"base_ids": [5, 6], "source_ids": [7, 8], "layers": [3, 4], "base_pos": 1,'
    ' "source_pos": 0, "value": "per_layer"}'
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One patch: the source's residuals at `source_pos` replace the base's at `base_pos`.

    Attributes:
      base_ids: the text that is run with the patch.
      source_ids: the text that the residuals come from.
      layers: after which layers (site `resid_post`).
      base_pos: where they are written.
      source_pos: where they are read.
      value: `per_layer` writes each layer's own; `first` the first listed layer's in all of them;
        `mean` the mean over the listed layers in all of them.
    """

    base_ids: tuple[int, ...]
    source_ids: tuple[int, ...]
    layers: tuple[int, ...]
    base_pos: int
    source_pos: int
    value: Value = "per_layer"


@dataclasses.dataclass(frozen=True)
class PairResults:
    """What came of each pair, in the order given.

    Attributes:
      base: int `[n]`, the likeliest next token of the base text.
      patched: int `[n]`, the likeliest next token under the patch.
      margin: float32 `[n]`, by how much its logit exceeds the second best.
      vectors: float32 `[n, d]`, the mean over the listed layers of the source's residuals, or None.
    """

    base: np.ndarray
    patched: np.ndarray
    margin: np.ndarray
    vectors: np.ndarray | None = None


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a JSONL file, the n-th from line n; whether a model can run them is not asked.

    Raises:
      SelfxError: the file cannot be read or is empty, or a line is no pair; it names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SelfxError(f"{path} cannot be read: {error}", expected=_LINE) from error
    if not lines:
        raise SelfxError(f"{path} is empty", expected=_LINE)
    return [_pair(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def write_results(path: str | Path, results: PairResults) -> None:
    """Writes `{"base", "patched", "margin"}` a line, in the order of the pairs, all or nothing."""
    columns = (results.base.tolist(), results.patched.tolist(), results.margin.tolist())
    rows = zip(*columns, strict=True)
    lines = (json.dumps({"base": b, "patched": p, "margin": m}) for b, p, m in rows)
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


def check_pairs(pairs: Sequence[Pair], config: Config, source: str | Path | None = None) -> None:
    """Raises SelfxError for the first pair that the model cannot run.

    Args:
      pairs: to be run.
      config: of the model.
      source: the file that they were read from, to name the line in the message.
    """
    for number, pair in enumerate(pairs, 1):
        problem = _problem(pair, config)
        if problem:
            where = f"{source}:{number}" if source is not None else f"pair {number}"
            raise SelfxError(f"{where}: {problem[0]}", expected=problem[1])


def _problem(pair: Pair, config: Config) -> tuple[str, str] | None:
    """What is wrong with a pair and what was expected, or None."""
    for name in ("base", "source"):
        ids, position = getattr(pair, f"{name}_ids"), getattr(pair, f"{name}_pos")
        if not ids:
            return f"{name}_ids is empty", "at least one token"
        wrong = [i for i in (min(ids), max(ids)) if not 0 <= i < config.vocab_size]
        if wrong:
            return f"token {wrong[0]} in {name}_ids", f"ids from 0 to {config.vocab_size - 1}"
        if not 0 <= position < len(ids):
            return f"{name}_pos {position}", f"a position from 0 to {len(ids) - 1}"
    if not pair.layers or len(set(pair.layers)) < len(pair.layers):
        return f"layers {list(pair.layers)}", "at least one layer, each once"
    wrong = [layer for layer in pair.layers if not 0 <= layer < config.n_layers]
    if wrong:
        return f"layer {wrong[0]}", f"layers from 0 to {config.n_layers - 1}"
    if pair.value not in VALUES:
        return f"value {pair.value!r}", f"one of {', '.join(VALUES)}"
    return None


def _pair(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SelfxError(f"{where}: {error}", expected=_LINE) from None
    if not isinstance(row, dict):
        raise SelfxError(f"{where}: {line.strip()[:60]}", expected=_LINE)
    names = {field.name for field in dataclasses.fields(Pair)}
    odd = sorted(names ^ set(row))
    if odd:
        said = "lacks" if odd[0] in names else "has an unknown"
        raise SelfxError(f"{where}: it {said} {odd[0]!r}", expected=_LINE)
    for name in ("base_ids", "source_ids", "layers"):
        if not isinstance(row[name], list) or not all(map(_is_int, row[name])):
            raise _wrong(where, name, row[name], "a list of whole numbers")
    for name in ("base_pos", "source_pos"):
        if not _is_int(row[name]):
            raise _wrong(where, name, row[name], "a whole number")
    if row["value"] not in VALUES:
        raise _wrong(where, "value", row["value"], f"one of {', '.join(VALUES)}")
    return Pair(
        base_ids=tuple(row["base_ids"]),
        source_ids=tuple(row["source_ids"]),
        layers=tuple(row["layers"]),
        base_pos=row["base_pos"],
        source_pos=row["source_pos"],
        value=row["value"],
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(where: str, name: str, value: Any, expected: str) -> SelfxError:
    return SelfxError(f"{where}: {name} = {json.dumps(value)[:60]}", expected=expected)
