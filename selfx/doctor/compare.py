"""How far two arrays are apart, relative to their size, and where; and how far they may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from selfx.doctor.report import Check

FLOAT32 = 5e-5
"""What float32 may differ from exact arithmetic by, relative to the largest value."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """The largest relative difference, and its place in words."""

    size: float
    where: str = ""


def limit(dtype: Any, layers: int = 1) -> float:
    """How far a result may be off, relative to its size.

    In float32 5e-5. A coarser format rounds by `eps` every time a value is written down, and every
    step writes a few values: 4 `eps`. Over many layers these add up as a random walk does, with the
    square root of their number.
    """
    kind = jnp.finfo(dtype)
    return FLOAT32 if kind.bits >= 32 else 4 * float(kind.eps) * layers**0.5


def gap(
    got: Any, want: Any, axes: Sequence[str], each: Sequence[str], scale: np.ndarray | None = None
) -> Gap:
    """The largest `|got - want|` relative to the largest `|want|` of the same place.

    Args:
      got, want: arrays of one shape.
      axes: what the leading axes count, such as `("layer", "row", "position")`.
      each: those of them over which scales are taken apart; over the rest the largest counts.
      scale: what counts instead of `|want|`, of its shape: for a sum, its largest term.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return Gap(np.inf, f"shape {list(got.shape)} instead of {list(want.shape)}")
    inner = tuple(range(len(axes), want.ndim))
    over = tuple(i for i, axis in enumerate(axes) if axis not in each)
    scale = (np.abs(want) if scale is None else scale).max(axis=inner)
    scale = scale.max(axis=over, keepdims=True) if over else scale
    off = np.abs(got - want).max(axis=inner)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(off == 0, 0.0, off / np.broadcast_to(scale, off.shape))
    relative = np.where(np.isnan(relative), np.inf, relative)
    place = np.unravel_index(relative.argmax(), relative.shape)
    words = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True))
    size = float(relative[place])
    return Gap(size, words if size else "")


def worst(gaps: Sequence[Gap]) -> Gap:
    """The largest of several."""
    return max(gaps, key=lambda one: one.size)


def judged(name: str, about: str, found: Gap, limit: float, diagnosis: str = "") -> Check:
    """A check that passes if what was found keeps within the limit."""
    outcome: Literal["passed", "failed"] = "passed" if found.size <= limit else "failed"
    note = diagnosis if outcome == "failed" else ""
    return Check(name, about, outcome, found.size, limit, found.where, note)
