"""A projection, and its folder.

projection.safetensors   matrices
projection.json          whose they are, how they were made, how well they fit; written last
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfx.errors import SelfxError
from selfx.files import atomic, read_json, write_json
from selfx.weights.digest import file_hash

Kind = Literal["random", "kaiming", "ridge", "learned"]
MATRICES, RECORD = "projection.safetensors", "projection.json"
_HINT = "copy the folder again, or make it again"


@dataclasses.dataclass(frozen=True)
class Projection:
    """A linear map for every layer of a target, into the residual of an explainer.

    Attributes:
      matrices: float32 `[l, d_target, d_explainer]`, `l` the target's layers.
      layers: for each of the target's layers, the explainer's that it stands for.
      kind: how it was made.
      target, explainer: the hashes of both models.
      r2: for each layer, the share of the variance of the explainer's unit states about their mean
        that is told from the target's, on texts held out; below 0 where the mean itself would do
        better, as a map without a constant may. Empty where nothing was measured.
      cosine: for each layer, the mean cosine there of what is told and what is. It flatters: the
        states of a layer all point much the same way.
      strengths: for each layer, the ridge's.
    """

    matrices: np.ndarray
    layers: tuple[int, ...]
    kind: Kind
    target: str
    explainer: str
    r2: tuple[float, ...] = ()
    cosine: tuple[float, ...] = ()
    strengths: tuple[float, ...] = ()

    def check(self) -> None:
        """Raises SelfxError where its parts do not fit together, or are not finite."""
        shape, count = np.shape(self.matrices), len(self.layers)
        if len(shape) != 3 or shape[0] != count or not count:
            raise SelfxError(
                f"matrices of shape {list(shape)} for {count} layers",
                expected="[l, d_target, d_explainer], one for each layer",
            )
        measured = (self.r2, self.cosine, self.strengths)
        if any(len(one) not in (0, count) for one in measured):
            raise SelfxError(f"figures of {[*map(len, measured)]} layers", expected=f"{count}")
        wrong = [i for i, one in enumerate(self.matrices) if not np.isfinite(one).all()]
        if wrong:
            raise SelfxError(
                f"a projection of layer {wrong[0]} that is not finite", expected="finite numbers"
            )


def same_depth(n_target: int, n_explainer: int) -> list[int]:
    """For each layer of a target, the explainer's at the same relative depth: ends to ends.

    The only layer of a target of one is its last.
    """
    steps = max(n_target - 1, 1)
    start = 1 if n_target == 1 else 0
    return [round(i * (n_explainer - 1) / steps) for i in range(start, start + n_target)]


def save_projection(projection: Projection, folder: str | Path) -> None:
    """Writes the matrices, then the record.

    Raises:
      SelfxError: it is not whole, the disk is full, or the folder cannot be written.
    """
    projection.check()
    folder = Path(folder)
    with atomic(folder / MATRICES) as temporary:
        matrices = np.ascontiguousarray(projection.matrices, np.float32)
        save_file({"matrices": matrices}, temporary)
    fields = [each.name for each in dataclasses.fields(Projection) if each.name != "matrices"]
    record: dict[str, Any] = {name: getattr(projection, name) for name in fields}
    write_json(folder / RECORD, {**record, "sha256": file_hash(folder / MATRICES)})


def load_projection(folder: str | Path, target: str, explainer: str) -> Projection:
    """The projection in a folder, as it was saved.

    Args:
      folder: where it is.
      target, explainer: the hashes of the models that it is wanted for.

    Raises:
      SelfxError: it is missing, damaged or not finite, or of other models.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD, hint="make it with fit_projection and save_projection")
    try:
        projection = _assembled(record, folder / MATRICES)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise SelfxError(
            f"the projection in {folder} cannot be read: {error}",
            expected=f"{MATRICES} and {RECORD}",
            hint=_HINT,
        ) from error
    projection.check()
    found = {"target": projection.target, "explainer": projection.explainer}
    for role, wanted in {"target": target, "explainer": explainer}.items():
        if found[role] != wanted:
            raise SelfxError(
                f"a projection for the {role} with hash {str(found[role])[:12]}",
                expected=f"one for {wanted[:12]}",
                hint="fit one for these two models",
            )
    return projection


def _assembled(record: dict[str, Any], file: Path) -> Projection:
    record = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
    sha256 = record.pop("sha256")
    if file_hash(file) != sha256:
        raise SelfxError(f"{file} is not the one that {RECORD} is of", hint=_HINT)
    with safe_open(file, framework="numpy") as tensors:
        return Projection(matrices=tensors.get_tensor("matrices"), **record)
