"""The published archive of feature descriptions (arXiv 2511.08579), read without torch.

    features/layer_{L}.pkl                          tensor [d, n], a column for each feature
    explanations/{split}_explanations.pkl           ((layer, feature), {chosen_label, ...})
    explanations/{split}_layer_feature_idxs.pkl     (layer, feature) in the order of the exemplars
    {split}/layer{L}/{max|min}_{seq_acts,seq_ids}.npy   [rows, k, t], padded on the left

Row `i` of a layer's exemplars is the `i`-th feature of that layer in the index. Pickles are read by
`selfx.features.dictionaries.unpickle`, which makes data of them and runs nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.descriptions.describe import Description
from selfx.features.dictionaries.unpickle import read_pickle
from selfx.features.exemplars.excerpts import Excerpt, Pieces

BY = "published"


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A feature and what the archive says of it.

    Attributes:
      layer: its layer.
      index: its number in the layer's dictionary.
      descriptions: the chosen one first, then the others, each once.
    """

    layer: int
    index: int
    descriptions: tuple[Description, ...]


def read_labels(folder: str | Path, split: str) -> list[Labelled]:
    """The descriptions of a split, in the order of the file.

    Raises:
      SelfxError: no such file, one that is not only data, or something else in it.
    """
    path = _inside(folder, "explanations", f"{_named(split)}_explanations.pkl")
    rows = read_pickle(path)
    if not isinstance(rows, list):
        raise SelfxError(f"{path} holds a {type(rows).__name__}", expected="a list")
    try:
        return [_labelled(row) for row in rows]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SelfxError(
            f"{path}: a row that is no description ({error!r})",
            expected="((layer, feature), {chosen_label, all_labels, all_label_scores})",
        ) from error


def read_directions(folder: str | Path, layer: int, width: int) -> np.ndarray:
    """float32 `[n, d]`: the directions of a layer, a row each.

    Args:
      folder: the archive.
      layer: which layer's.
      width: `d`, of the model that they are for.

    Raises:
      SelfxError: no such file, another width, or numbers that are not finite.
    """
    path = _inside(folder, "features", f"layer_{int(layer)}.pkl")
    matrix = read_pickle(path)
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.shape[0] != width:
        shape = list(matrix.shape) if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise SelfxError(
            f"{path} holds {shape}",
            expected=f"[{width}, n], a column for each feature",
            hint="check that the archive is of this model",
        )
    rows = np.ascontiguousarray(matrix.T, np.float32)
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise SelfxError(
            f"{path}: feature {wrong[0]} has a number that is not finite",
            hint="copy the archive again",
        )
    return rows


def read_places(folder: str | Path, split: str) -> dict[tuple[int, int], int]:
    """`{(layer, feature): row}` in the exemplars of its layer.

    Raises:
      SelfxError: no such file, or something else in it.
    """
    path = _inside(folder, "explanations", f"{_named(split)}_layer_feature_idxs.pkl")
    counts: dict[int, int] = {}
    places = {}
    try:
        for layer, feature in read_pickle(path):
            row = counts.setdefault(int(layer), 0)
            places[int(layer), int(feature)] = row
            counts[int(layer)] += 1
    except (TypeError, ValueError) as error:
        raise SelfxError(f"{path}: {error}", expected="a list of (layer, feature)") from error
    return places


def read_excerpts(
    folder: str | Path,
    split: str,
    layer: int,
    row: int,
    pieces: Pieces,
    pad_id: int,
    *,
    sign: str = "max",
    most: int = 20,
) -> tuple[Excerpt, ...]:
    """A feature's exemplars, from the highest activation down.

    Args:
      folder: the archive.
      split: `train`, `valid`, `test`; after `random_`, texts taken at random.
      layer: its layer.
      row: as `read_places` has it.
      pieces: of the tokenizer that the archive was made with.
      pad_id: the token that fills rows on the left.
      sign: `max`, or `min` for the most negative activations.
      most: how many.

    Raises:
      SelfxError: arrays that are missing, need code to be read, or do not fit each other.
    """
    if sign not in ("max", "min"):
        raise SelfxError(f"sign {sign!r}", expected="max or min")
    at = Path(folder) / _named(split) / f"layer{int(layer)}"
    acts, ids = (_array(at / f"{sign}_seq_{name}.npy") for name in ("acts", "ids"))
    if acts.ndim != 3 or acts.shape != ids.shape or ids.dtype.kind not in "iu":
        raise SelfxError(
            f"{at}: arrays of shapes {list(acts.shape)} and {list(ids.shape)}",
            expected="[rows, k, t], the same of both, ids whole numbers",
        )
    if not 0 <= row < len(acts):
        raise SelfxError(f"row {row} of {at}", expected=f"one from 0 to {len(acts) - 1}")
    kind = "random" if split.startswith("random") else "top"
    texts = zip(ids[row, :most], acts[row, :most], strict=True)
    return tuple(_excerpt(i, a, pieces, pad_id, kind) for i, a in texts)


def _excerpt(ids: np.ndarray, acts: np.ndarray, pieces: Pieces, pad_id: int, kind: str) -> Excerpt:
    real = ids[ids != pad_id]
    values = acts[len(acts) - len(real) :].astype(np.float32)
    if not np.isfinite(values).all():
        raise SelfxError("an exemplar with an activation that is not finite")
    tokens = tuple(real.tolist())
    return Excerpt(pieces(tokens), values, kind, ids=tokens)


def _labelled(row: Any) -> Labelled:
    (layer, feature), about = row
    chosen, others = about["chosen_label"], about.get("all_labels") or []
    scores = about.get("all_label_scores") or {}
    texts: Sequence[str] = tuple(dict.fromkeys([chosen, *others]))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a label that is no text")
    said = (Description(text, BY, score=_number(scores.get(text))) for text in texts)
    return Labelled(int(layer), int(feature), tuple(said))


def _number(value: Any) -> float | None:
    known = value is not None and np.isfinite(float(value))
    return float(value) if known else None


def _named(split: str) -> str:
    if not re.fullmatch(r"\w+", split):
        raise SelfxError(f"split {split!r}", expected="a name such as train or test")
    return split


def _inside(folder: str | Path, *parts: str) -> Path:
    path = Path(folder).joinpath(*parts)
    if not path.is_file():
        raise SelfxError(f"no file {path}", expected="the unpacked archive of descriptions")
    return path


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SelfxError(f"{path} cannot be read: {error}", expected="an array of NumPy") from error
