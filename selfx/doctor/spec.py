"""What a checkpoint declares about each layer: the doctor's own words, apart from `Config`.

`selfx.models.config` is under examination, so nothing here is read from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Turn:
    """A rotary embedding.

    Attributes:
      theta: its base.
      width: how many coordinates of a head it turns.
      kind: how its frequencies are stretched, as Hugging Face calls it; `divided` by the factors of
        a GGUF file.
      settings: what the checkpoint says about the stretching, and the model's longest text.
      pairs: whether a pair is a coordinate and its like in the other half, or two neighbours.
    """

    theta: float
    width: int
    kind: str = "default"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pairs: Literal["halves", "neighbours"] = "halves"


@dataclasses.dataclass(frozen=True)
class Router:
    """A mixture of experts: how many, how many a token goes to, whether their weights sum to 1."""

    experts: int
    chosen: int
    normed: bool


@dataclasses.dataclass(frozen=True)
class Spec:
    """One layer.

    Attributes:
      heads, kv_heads, d_head: of the attention.
      eps: of the norms.
      norm: `rms`, `plus_one` (RMS, times 1 + weight), `layer`; `bare` and `none` for suspicions: no
        weight is applied, nothing is normed.
      qk_norm: whether queries and keys are normed, by head or by row.
      turn: the rotary embedding, or None.
      scale, cap: of the attention scores.
      window: how many tokens back a token sees, itself included.
      parallel: whether the MLP reads what the attention reads.
      gated, activation: of the MLP.
      router: of the experts, or None.
      embed_scale: what embeddings are multiplied by.
      first_place: the learned position of the first token, or None without learned positions.
      logit_cap: the cap over logits.
      grouping: whether a key head serves neighbouring query heads, or every so-manieth.
      causal: False for the suspicion that tokens see the future.
    """

    heads: int
    kv_heads: int
    d_head: int
    eps: float
    scale: float
    norm: Literal["rms", "plus_one", "layer", "bare", "none"] = "rms"
    qk_norm: Literal["head", "row"] | None = None
    turn: Turn | None = None
    cap: float | None = None
    window: int | None = None
    parallel: bool = False
    gated: bool = True
    activation: str = "silu"
    router: Router | None = None
    embed_scale: float = 1.0
    first_place: int | None = None
    logit_cap: float | None = None
    grouping: Literal["neighbours", "strided"] = "neighbours"
    causal: bool = True


class Tensors(Protocol):
    """The weights of a checkpoint by role, as stored, linear maps as `[in, out]`."""

    def outside(self, role: str) -> np.ndarray | None:
        """`embed` `[v, d]`, `head` `[v, d]` if untied, `places`, `final_norm.w`, `final_norm.b`."""
        ...

    def inside(self, role: str, layer: int, expert: int | None = None) -> np.ndarray | None:
        """Such as `q.w`, `q.b`, `attn_norm.w` of a layer, or of one of its experts."""
        ...


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What the files hold: a `Spec` a layer, and the tensors."""

    specs: tuple[Spec, ...]
    tensors: Tensors
