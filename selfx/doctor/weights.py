"""Every weight of the model against the checkpoint's tensor, to the bit.

The steps see only what the texts touch: this also sees the embedding's other rows, positions past
the texts' end, and experts that no token was sent to.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from selfx.doctor.report import Check, stated
from selfx.doctor.spec import Checkpoint, Tensors
from selfx.doctor.trial import Trial, layer_of
from selfx.models.parameters import parameter_path

_ABOUT = "every weight is the checkpoint's tensor, rounded to the model's dtype"


def weights(trial: Trial, checkpoint: Checkpoint) -> Iterator[Check]:
    """One check over all weights; one tensor at a time on the host."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(trial.model)
    problems, count = [], 0
    for path, leaf in leaves:
        for place, got, want in _pairs(parameter_path(path), leaf, checkpoint.tensors):
            count += 1
            problem = _difference(np.asarray(got), want)
            if problem:
                problems.append(f"{place} {problem}")
    more = [f"and {len(problems) - 6} more"] if len(problems) > 6 else []
    yield stated("weights", _ABOUT, problems[:6] + more, f"{count} tensors")


Pair = tuple[str, jax.Array, np.ndarray | None]


def _pairs(path: str, leaf: jax.Array, tensors: Tensors) -> Iterator[Pair]:
    """A weight's parts as files have them: `(where, the model's, the checkpoint's)`."""
    if not path.startswith("blocks."):
        head = path == "unembed.w"
        want = tensors.outside("head" if head else path)
        yield path, leaf, want.T if head and want is not None else want
        return
    role, each_expert = path.removeprefix("blocks."), False
    if role.startswith("experts."):
        role = role.removeprefix("experts.")
        each_expert = not role.startswith("router.")
    for layer in range(leaf.shape[0]):
        own = layer_of(leaf, layer)
        if not each_expert:
            yield f"{path} of layer {layer}", own, tensors.inside(role, layer)
            continue
        for expert in range(own.shape[0]):
            want = tensors.inside(f"{role}.w", layer, expert)
            yield f"{path} {expert} of layer {layer}", layer_of(own, expert), want


def _difference(got: np.ndarray, want: np.ndarray | None) -> str:
    """What is wrong with a weight, or nothing."""
    if want is None:
        return "is not in the checkpoint"
    if got.shape != want.shape:
        return f"has shape {list(got.shape)}, the checkpoint's {list(want.shape)}"
    other = got != np.asarray(want).astype(got.dtype)
    return f"differs in {int(other.sum())} of {other.size} numbers" if other.any() else ""
