"""The small parts of a decoder in float64, with the checkpoint's weights: maps, norms, experts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from selfx.doctor.spec import Router, Spec, Tensors
from selfx.errors import SelfxError

_ROWS = 16_384  # of an embedding, in float64 at once


def _erf(x: np.ndarray) -> np.ndarray:
    return np.frompyfunc(math.erf, 1, 1)(x).astype(np.float64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """The weights of one layer, or those that a suspicion puts in their place.

    Attributes:
      tensors: the checkpoint's.
      number: the layer.
      dtype: what the model holds weights in; the checkpoint's are rounded to it.
      transposed, unbiased: for suspicions: maps that are turned over, or lose their bias.
      instead: for suspicions: `{role: the role whose tensor stands there}`.
    """

    tensors: Tensors
    number: int
    dtype: Any
    transposed: bool = False
    unbiased: bool = False
    instead: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def get(self, role: str, expert: int | None = None) -> np.ndarray | None:
        """A layer's tensor in float64, or None if it has none."""
        owner, kind = role.split(".")
        owner = self.instead.get(owner, owner)
        if owner == "final_norm":
            return self.outside(f"{owner}.{kind}")
        return self._rounded(self.tensors.inside(f"{owner}.{kind}", self.number, expert))

    def outside(self, role: str) -> np.ndarray | None:
        """A tensor that no layer owns, in float64."""
        return self._rounded(self.tensors.outside(role))

    def rows(self, role: str, chosen: np.ndarray) -> np.ndarray:
        """Some rows of a table `[rows, d]`."""
        table = self.tensors.outside(role)
        if table is None:
            raise SelfxError(f"no tensor for {role} in the checkpoint")
        found = self._rounded(table[np.minimum(chosen, len(table) - 1)])
        assert found is not None
        return found

    def linear(self, name: str, x: np.ndarray, expert: int | None = None) -> np.ndarray:
        """`x @ w + b`."""
        w, b = self.get(f"{name}.w", expert), self.get(f"{name}.b", expert)
        if w is None:
            raise SelfxError(f"no tensor for {name} of layer {self.number} in the checkpoint")
        y = x.reshape(-1, x.shape[-1]) @ (w.T if self.transposed else w)
        y = y if b is None or self.unbiased else y + b
        return y.reshape(*x.shape[:-1], -1)

    def head(self, x: np.ndarray, tied: bool = False) -> np.ndarray:
        """Logits before any cap; the table is taken a part at a time."""
        table = None if tied else self.tensors.outside("head")
        table = self.tensors.outside("embed") if table is None else table
        assert table is not None
        rows, logits = x.reshape(-1, x.shape[-1]), []
        for start in range(0, len(table), _ROWS):
            part = self._rounded(table[start : start + _ROWS])
            assert part is not None
            logits.append(rows @ part.T)
        return np.concatenate(logits, axis=-1).reshape(*x.shape[:-1], -1)

    def _rounded(self, tensor: np.ndarray | None) -> np.ndarray | None:
        return None if tensor is None else np.asarray(tensor).astype(self.dtype).astype(np.float64)


def normed(spec: Spec, layer: Layer, name: str, x: np.ndarray) -> np.ndarray:
    """`x` under one of the layer's norms; `x` itself if the checkpoint has no such norm."""
    w = layer.get(f"{name}.w")
    if w is None or spec.norm == "none":
        return x
    if spec.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + spec.eps)
    if spec.norm == "bare":
        return y
    b = layer.get(f"{name}.b")
    y = y * (1 + w if spec.norm == "plus_one" else w)
    return y if b is None or layer.unbiased else y + b


def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
    """`x` under a soft cap."""
    return x if cap is None else cap * np.tanh(x / cap)


def softmax(x: np.ndarray) -> np.ndarray:
    """Weights over the last axis that sum to 1."""
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


def mixture(
    spec: Spec, router: Router, layer: Layer, x: np.ndarray, logits: np.ndarray
) -> np.ndarray:
    """What the experts chosen for each token return, weighted and summed; one expert at a time."""
    flat = x.reshape(-1, x.shape[-1])
    weights = softmax(logits.reshape(len(flat), -1))
    chosen = np.argsort(-weights, axis=-1, kind="stable")[:, : router.chosen]
    kept = np.take_along_axis(weights, chosen, axis=-1)
    if router.normed:
        kept = kept / kept.sum(axis=-1, keepdims=True)
    out = np.zeros_like(flat)
    for expert in np.unique(chosen):
        token, place = np.nonzero(chosen == expert)
        rows = flat[token]
        inner = ACTIVATIONS[spec.activation](layer.linear("gate", rows, expert))
        inner = inner * layer.linear("up", rows, expert)
        out[token] += kept[token, place, None] * layer.linear("down", inner, expert)
    return out.reshape(x.shape)
