"""Neuronpedia's export, out and in: JSON lines, gzipped, as its public bucket has them.

    v1/{model}/{source}/model.jsonl, source.jsonl
    v1/{model}/{source}/features/batch-{i}.jsonl.gz
    v1/{model}/{source}/activations/batch-{i}.jsonl.gz
    v1/{model}/{source}/explanations/batch-{i}.jsonl.gz

`{source}` is `{layer}-{set}`, such as `12-selfx-res-4k`. As dashboards tell it, `binContains` -1 is
a top text, a bin from 0 to 0 one taken at random, any other bin a sample of what lies in it.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.descriptions.describe import Description
from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.files import atomic
from selfx.interventions.batching import chunks

A_BATCH = 1024
_PARTS = ("features", "activations", "explanations")
_TYPE = "selfx_measured"


@dataclasses.dataclass(frozen=True)
class Published:
    """A feature as Neuronpedia has it.

    Attributes:
      index: its number in its source.
      evidence: its texts, promoted and suppressed tokens and frequency.
      descriptions: what has been said of it.
      vector: float32 `[d]`, or None.
      peak: its highest activation, as far as the export tells.
    """

    index: int
    evidence: Evidence
    descriptions: tuple[Description, ...] = ()
    vector: np.ndarray | None = None
    peak: float = 0.0


def save_neuronpedia(
    features: Sequence[Published],
    out: str | Path,
    *,
    model: str,
    source: str,
    hook: str = "",
    dataset: str = "",
    created: str | None = None,
) -> Path:
    """Writes an export and returns its folder; the same features give the same bytes.

    Args:
      features: what to write.
      out: where `v1` is to be.
      model, source: their ids at Neuronpedia.
      hook: the place that the features read, such as `blocks.12.hook_resid_post`.
      dataset: where the texts are from.
      created: the time to write beside everything, or None to leave it out.

    Raises:
      SelfxError: an id that cannot be a folder's name, or a folder that cannot be written.
    """
    folder = Path(out) / "v1" / _named(model) / _named(source)
    common = {"modelId": model, "layer": source}
    dated = {} if created is None else {"createdAt": created}
    _write(folder / "model.jsonl", [{"id": model, "displayName": model, **dated}])
    _write(folder / "source.jsonl", [_source(model, source, hook, dataset) | dated])
    batches = list(chunks(features, A_BATCH))
    for number, some in enumerate(batches):
        lines: dict[str, Iterable[dict[str, Any]]] = {
            "features": (_feature(one, hook) for one in some),
            "activations": (row for one in some for row in _activations(one, dataset)),
            "explanations": (row for one in some for row in _explanations(one)),
        }
        for part, rows in lines.items():
            path = folder / part / f"batch-{number}.jsonl.gz"
            _write(path, ({**common, **row, **dated} for row in rows))
    _forget_others(folder, len(batches))
    return folder


def load_neuronpedia(folder: str | Path) -> list[Published]:
    """The features of an export, in the order of their numbers.

    Args:
      folder: the source's, with `features`, `activations` and `explanations` in it; any of the
        three may be missing.

    Raises:
      SelfxError: there is nothing, or a line that is no object with what it needs.
    """
    folder = Path(folder)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {part: {} for part in _PARTS}
    for part in _PARTS:
        for where, row in _rows(folder / part):
            found[part].setdefault(_index(row, where), []).append({**row, "_where": where})
    numbers = sorted(set().union(*found.values()))
    if not numbers:
        raise SelfxError(
            f"no features in {folder}",
            expected=f"{', '.join(_PARTS)} with batch-0.jsonl.gz and so on",
        )
    return [_published(n, *(found[part].get(n, []) for part in _PARTS)) for n in numbers]


def _named(name: str) -> str:
    if not name or "/" in name or name.startswith("."):
        raise SelfxError(f"id {name!r}", expected="the name of a folder")
    return name


def _forget_others(folder: Path, batches: int) -> None:
    """Removes the batches that a larger export left."""
    kept = {f"batch-{number}.jsonl.gz" for number in range(batches)}
    for path in {path for path in folder.glob("*/batch-*") if path.name not in kept}:
        path.unlink()


def _source(model: str, source: str, hook: str, dataset: str) -> dict[str, Any]:
    own = {"id": source, "modelId": model, "setName": source.partition("-")[2]}
    return {**own, "hookName": hook, "dataset": dataset}


def _feature(one: Published, hook: str) -> dict[str, Any]:
    evidence = one.evidence
    return {
        "index": str(one.index),
        "maxActApprox": _peak(one),
        "hookName": hook,
        "hasVector": one.vector is not None,
        "vector": [] if one.vector is None else one.vector.tolist(),
        "frac_nonzero": evidence.frequency,
        "pos_str": list(evidence.promoted),
        "neg_str": list(evidence.suppressed),
    }


def _activations(one: Published, dataset: str) -> Iterator[dict[str, Any]]:
    for rank, text in enumerate(one.evidence.excerpts):
        at = int(text.activations.argmax()) if len(text.activations) else 0
        place = "" if text.document < 0 else f"{text.document}:{text.start}:{text.skip}"
        values = [float(str(value)) for value in text.activations.astype(np.float32)]
        yield {
            "id": _id(one.index, rank, text.text),
            "index": str(one.index),
            "tokens": list(text.pieces),
            "values": values,
            "dataIndex": place,
            "dataSource": dataset,
            "maxValue": max(values, default=0.0),
            "maxValueTokenIndex": at,
            "minValue": min(values, default=0.0),
            **_bin(text, _peak(one)),
        }


def _bin(text: Excerpt, peak: float) -> dict[str, float]:
    low, high, share = {"top": (-1.0, peak, -1.0), "random": (0.0, 0.0, 0.0)}.get(
        text.kind, (0.0, peak, 1.0)
    )
    return {"binMin": low, "binMax": high, "binContains": share}


def _explanations(one: Published) -> Iterator[dict[str, Any]]:
    for rank, description in enumerate(one.descriptions):
        yield {
            "id": _id(one.index, rank, description.text),
            "index": str(one.index),
            "description": description.text,
            "typeName": _TYPE if description.by == "built-in" else "oai_token-act-pair",
            "explanationModelName": description.by,
            "scoreV2": description.score,
        }


def _peak(one: Published) -> float:
    return one.peak or one.evidence.peak


def _id(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    try:
        data = "".join(lines).encode()
    except ValueError as error:
        raise SelfxError(f"{path}: {error}", expected="numbers that are finite") from error
    with atomic(path) as temporary:
        packed = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
        temporary.write_bytes(packed)


def _rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of a part's batches, in the order of their numbers."""
    files = sorted(folder.glob("batch-*.jsonl*"), key=lambda path: (len(path.name), path.name))
    for path in files:
        try:
            with _opened(path) as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield f"{path}:{number}", json.loads(line)
        except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
            raise SelfxError(f"{path} cannot be read: {error}", hint="copy it again") from error


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _index(row: Any, where: str) -> int:
    try:
        return int(row["index"])
    except (KeyError, TypeError, ValueError):
        raise SelfxError(f"{where} has no index", expected="an object with one") from None


def _published(
    index: int,
    features: list[dict[str, Any]],
    activations: list[dict[str, Any]],
    explanations: list[dict[str, Any]],
) -> Published:
    about = features[0] if features else {}
    try:
        excerpts = tuple(_excerpt(row) for row in activations)
        evidence = Evidence(
            index,
            excerpts,
            tuple(map(str, about.get("pos_str") or ())),
            tuple(map(str, about.get("neg_str") or ())),
            None if about.get("frac_nonzero") is None else float(about["frac_nonzero"]),
        )
        vector = np.asarray(about["vector"], np.float32) if about.get("vector") else None
        peak = float(about.get("maxActApprox") or 0.0)
    except (TypeError, ValueError) as error:
        where = about.get("_where", f"feature {index}")
        raise SelfxError(f"{where}: {error}", expected="a feature of an export") from None
    if vector is not None and (vector.ndim != 1 or not np.isfinite(vector).all()):
        raise SelfxError(f"{about['_where']}: a vector that is no list of finite numbers")
    return Published(index, evidence, tuple(map(_description, explanations)), vector, peak)


def _excerpt(row: dict[str, Any]) -> Excerpt:
    where = row["_where"]
    try:
        tokens, values = tuple(map(str, row["tokens"])), np.asarray(row["values"], np.float32)
        document, start, skip = _place(row.get("dataIndex"))
        kind = _kind(row.get("binContains"), row.get("binMax"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SelfxError(f"{where}: {error!r}", expected="tokens and their values") from None
    if values.shape != (len(tokens),) or not np.isfinite(values).all():
        raise SelfxError(
            f"{where}: {values.size} values for {len(tokens)} tokens",
            expected="a finite number for every token",
        )
    return Excerpt(tokens, values, kind, skip, document, start)


def _kind(share: Any, high: Any) -> str:
    if share is None or float(share) == -1:
        return "top"
    return "sample" if high is not None and float(high) > 0 else "random"


def _place(index: Any) -> tuple[int, int, int]:
    """Document, start and skip, where our own export wrote them."""
    parts = str(index or "").split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return -1, 0, 0
    document, start, skip = map(int, parts)
    return document, start, skip


def _description(row: dict[str, Any]) -> Description:
    text = row.get("description")
    if not isinstance(text, str):
        raise SelfxError(f"{row['_where']} has no description", expected="text")
    by = "built-in" if row.get("typeName") == _TYPE else row.get("explanationModelName")
    score = row.get("scoreV2")
    known = isinstance(score, int | float) and np.isfinite(score)
    return Description(text, str(by or "neuronpedia"), score=float(str(score)) if known else None)
