"""Exemplars on disk: three parquet tables that anything can read, and what they were made with.

windows.parquet    window, document, start, tokens
contexts.parquet   feature, kind, rank, window, peak, peak_position, activations
features.parquet   feature, active, fired, frequency, mean, deviation, peak
exemplars.json     settings, sizes, version
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import selfx
from selfx.errors import SelfxError
from selfx.features.exemplars.corpus import Corpus
from selfx.features.exemplars.directions import Reader
from selfx.features.exemplars.mine import STATE, Exemplars, Kept, Search, mine, settings_of
from selfx.features.exemplars.one_pass import KINDS
from selfx.files import atomic, read_json, write_json
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

RECORD = "exemplars.json"
_TABLES = ("windows", "contexts", "features")
_HINT = "make it with selfx.features.exemplars.mine.mine and save_exemplars"


def save_exemplars(exemplars: Exemplars, out: str | Path) -> None:
    """Writes the tables, then the record, then drops the state of the pass that they came from.

    Raises:
      SelfxError: the disk is full or the folder cannot be written.
    """
    out = Path(out)
    tables = (_windows(exemplars.corpus), _contexts(exemplars), _features(exemplars))
    for name, table in zip(_TABLES, tables, strict=True):
        with atomic(out / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=4096)
    record = {
        "settings": exemplars.settings,
        "tokens": exemplars.tokens,
        "features": len(exemplars),
        "context": int(exemplars.corpus.tokens.shape[1]),
        "skip": exemplars.corpus.skip,
        "lead": exemplars.corpus.lead,
        "kept": {kind: int(exemplars.kept[kind].window.shape[1]) for kind in KINDS},
        "version": selfx.__version__,
    }
    write_json(out / RECORD, record)
    (out / STATE).unlink(missing_ok=True)


def mined(
    lm: LanguageModel,
    features: Reader,
    corpus: Corpus,
    out: str | Path,
    search: Search | None = None,
    *,
    save_every: int = 100,
    report: Report = silent,
) -> Exemplars:
    """The exemplars in a folder, mined first where they are not; a stopped pass goes on.

    Args:
      lm, features, corpus, search, save_every, report: as in `mine`.
      out: the folder.

    Raises:
      SelfxError: as `mine`; or the folder holds the exemplars of other features, texts or settings.
    """
    out = Path(out)
    if not (out / RECORD).exists():
        found = mine(lm, features, corpus, out, search, save_every=save_every, report=report)
        save_exemplars(found, out)
        return found
    found = load_exemplars(out)
    wanted = settings_of(lm, features, corpus, search)
    other = [name for name in wanted if found.settings.get(name) != wanted[name]]
    if other:
        raise SelfxError(
            f"{out} holds exemplars with another {', '.join(other)}",
            expected="the same features, texts and settings",
            hint="use another folder",
        )
    return found


def load_exemplars(folder: str | Path) -> Exemplars:
    """The exemplars in a folder, as they were saved.

    Raises:
      SelfxError: there are none, or a table cannot be read or does not fit its record.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD, hint=_HINT)
    try:
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in _TABLES}
        return _assembled(record, tables)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise SelfxError(
            f"the exemplars in {folder} cannot be read: {str(error).splitlines()[0]}",
            expected=f"{', '.join(f'{name}.parquet' for name in _TABLES)} and {RECORD}",
            hint="copy the folder again, or make it again",
        ) from error


def _windows(corpus: Corpus) -> pa.Table:
    ids = [row[:length] for row, length in zip(corpus.tokens, corpus.lengths, strict=True)]
    return pa.table(
        {
            "window": pa.array(range(len(corpus)), pa.int32()),
            "document": pa.array(corpus.document, pa.int32()),
            "start": pa.array(corpus.start, pa.int32()),
            "tokens": pa.array(ids, pa.list_(pa.int32())),
        }
    )


def _contexts(exemplars: Exemplars) -> pa.Table:
    parts = [_kind(exemplars.kept[kind], kind) for kind in KINDS]
    table = pa.concat_tables(parts)
    return table.sort_by([("feature", "ascending")])  # stable: kinds and ranks stay in order


def _kind(kept: Kept, kind: str) -> pa.Table:
    feature, rank = np.nonzero(kept.window >= 0)
    values = kept.activations[feature, rank]
    length = values.shape[1]
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * length)
    return pa.table(
        {
            "feature": pa.array(feature, pa.int32()),
            "kind": pa.array([kind] * len(feature), pa.string()),
            "rank": pa.array(rank, pa.int32()),
            "window": pa.array(kept.window[feature, rank], pa.int32()),
            "peak": pa.array(values.max(axis=1), pa.float32()),
            "peak_position": pa.array(values.argmax(axis=1), pa.int32()),
            "activations": pa.ListArray.from_arrays(offsets, pa.array(values.ravel())),
        }
    )


def _features(exemplars: Exemplars) -> pa.Table:
    count = range(len(exemplars))
    return pa.table(
        {
            "feature": pa.array(count, pa.int32()),
            "active": pa.array(exemplars.active, pa.int32()),
            "fired": pa.array(exemplars.fired, pa.int32()),
            "frequency": pa.array([exemplars.frequency(i) for i in count], pa.float64()),
            "mean": pa.array(exemplars.mean, pa.float32()),
            "deviation": pa.array(exemplars.deviation, pa.float32()),
            "peak": pa.array([exemplars.peak(i) for i in count], pa.float32()),
        }
    )


def _assembled(record: dict[str, Any], tables: dict[str, pa.Table]) -> Exemplars:
    context, features = record["context"], tables["features"]
    corpus = _corpus(tables["windows"], record)
    kept = {
        kind: _kept(tables["contexts"], kind, record["features"], k, context)
        for kind, k in record["kept"].items()
    }
    for kind, one in kept.items():
        if one.window.max(initial=-1) >= len(corpus):
            raise ValueError(f"{kind} names a window that is not there")
    active, fired = (features[name].to_numpy() for name in ("active", "fired"))
    mean, deviation = (features[name].to_numpy() for name in ("mean", "deviation"))
    return Exemplars(
        corpus, kept, record["tokens"], active, fired, mean, deviation, record["settings"]
    )


def _corpus(table: pa.Table, record: dict[str, Any]) -> Corpus:
    rows = table["tokens"].to_pylist()
    tokens = np.zeros((len(rows), record["context"]), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    lengths = np.array([len(ids) for ids in rows], np.int32)
    document, start = (table[name].to_numpy() for name in ("document", "start"))
    return Corpus(tokens, lengths, document, start, record["skip"], record["lead"])


def _kept(table: pa.Table, kind: str, features: int, k: int, context: int) -> Kept:
    table = table.filter(pc.equal(table["kind"], kind))
    feature, rank, window = (table[name].to_numpy() for name in ("feature", "rank", "window"))
    held = Kept(np.full((features, k), -1, np.int32), np.zeros((features, k, context), np.float32))
    flat = table["activations"].combine_chunks().flatten().to_numpy()
    held.window[feature, rank] = window
    held.activations[feature, rank] = flat.reshape(-1, context)
    return held
