"""Matrices of single layers brought to one rank and one scale, so that they can be stacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Matrices:
    """An adapter for one map: `a` `[l, in, r]`, `b` `[l, r, out]`, and what multiplies them.

    One layer alone has the same without the leading axis.
    """

    a: Any
    b: Any
    scale: float


def stack(layers: Mapping[int, Matrices], n_layers: int) -> Matrices:
    """One adapter of those of single layers; zeros where a layer has none.

    Smaller ranks are filled up with zeros. Where scales differ they go into `b`, and 1 stays.
    """
    first = next(iter(layers.values()))
    rank = max(each.a.shape[1] for each in layers.values())
    a = np.zeros((n_layers, first.a.shape[0], rank), np.float32)
    b = np.zeros((n_layers, rank, first.b.shape[1]), np.float32)
    scale = common_scale(layers.values())
    for layer, each in layers.items():
        own = each.a.shape[1]
        a[layer, :, :own], b[layer, :own] = each.a, each.b
        b[layer] *= _rest(each.scale, scale)
    return Matrices(a, b, scale)


def common_scale(adapters: Iterable[Matrices]) -> float:
    """The scale that all have, or 1 where they differ."""
    scales = {each.scale for each in adapters}
    return scales.pop() if len(scales) == 1 else 1.0


def rescaled(adapter: Matrices, scale: float) -> Matrices:
    """The same correction with another scale, the difference in `b`."""
    rest = _rest(adapter.scale, scale)
    return Matrices(adapter.a, adapter.b if rest == 1 else adapter.b * np.float32(rest), scale)


def _rest(scale: float, wanted: float) -> float:
    return 1.0 if scale == wanted else scale / wanted
