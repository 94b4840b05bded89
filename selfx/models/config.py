"""What a decoder is made of, read from a checkpoint: one set of switches for every family."""

from __future__ import annotations

import dataclasses
from typing import Literal

RopeKind = Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
NormKind = Literal["rms", "rms_plus_one", "layer"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How a rotary embedding is stretched past the length that the model was first trained on.

    Attributes:
      kind: `linear` divides positions (Chen et al. 2023, arXiv 2306.15595); `dynamic` raises the
        base with the length (NTK-aware); `yarn` blends both by frequency (Peng et al. 2023,
        arXiv 2309.00071); `llama3` is Llama 3.1's piecewise rule; `longrope` divides every
        frequency by a factor of its own (Ding et al. 2024, arXiv 2402.13753).
      factor: how many times longer.
      original_max_positions: the length before stretching, in tokens.
      low_freq_factor, high_freq_factor: the wavelength limits of `llama3`.
      beta_fast, beta_slow: the rotation-count limits of `yarn`.
      attention_factor: what `yarn` and `longrope` multiply cosines and sines by.
      truncate: whether `yarn` rounds its limits to whole dimensions.
      short, long: the factors of `longrope`, for texts up to the original length and beyond.
    """

    kind: RopeKind
    factor: float
    original_max_positions: int
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    beta_fast: float = 0.0
    beta_slow: float = 0.0
    attention_factor: float = 1.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rope:
    """A rotary embedding (Su et al. 2021, arXiv 2104.09864).

    Attributes:
      theta: the base of its frequencies.
      scaling: how they are stretched, or None.
      share: how much of a head's width is turned, from its first coordinate on.
    """

    theta: float
    scaling: RopeScaling | None = None
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP, the same in every layer.

    Attributes:
      n_experts: `x`, how many there are.
      n_chosen: `c`, how many a token is sent to.
      normalized: whether the weights of those chosen are made to sum to 1.
    """

    n_experts: int
    n_chosen: int
    normalized: bool


@dataclasses.dataclass(frozen=True)
class Config:
    """The architecture of a decoder.

    Hashable, so that it can be a static part of a parameter tree. The numbers have no default: they
    come from a checkpoint. The switches stand at Llama's setting. What differs from layer to layer
    (`ropes`, `windows`, `score_scales`) is a pattern, repeated over the layers as often as it fits.

    Attributes:
      family: a name in `selfx.models.zoo.FAMILIES`.
      vocab_size: `v`.
      d_model: `d`, the width of the residual stream.
      d_ff: `f`, the width inside the MLP, or inside an expert.
      n_layers: `l`.
      n_heads: `h`, query heads.
      n_kv_heads: `k`, key and value heads; `h` is a multiple of it.
      d_head: `e`, the width of a head.
      ropes: the rotary embedding of each layer, None where a layer turns nothing.
      norm_eps: added to the mean square, or to the variance.
      max_positions: the longest text that the model was made for, in tokens.
      tied: whether the embedding is also the unembedding.
      attention_bias: whether the maps to queries, keys and values add a bias.
      output_bias, mlp_bias: the same of the attention's output map, and of the MLP's maps.
      norm: `rms`; `rms_plus_one`, whose stored weight is the distance from 1; `layer`, which
        also takes the mean off and adds a bias.
      pre_norm: whether attention and MLP read the residual normed.
      post_norm: whether what they return is normed before it is added.
      qk_norm: whether queries and keys are normed, each `head` apart or the whole `row` at once.
      parallel: whether the MLP reads the residual that the attention reads.
      gated: whether the MLP multiplies an activated gate by a linear map.
      activation: of the MLP, a name in `selfx.models.layers.ACTIVATIONS`.
      learned_positions: whether a trained vector a position is added to the embeddings.
      windows: how many tokens back, itself included, a token of each layer sees; None is all.
      embed_scale: what embeddings are multiplied by.
      score_scales: what products of query and key are multiplied by; None is `1 / sqrt(e)`.
      score_cap, logit_cap: `cap * tanh(x / cap)` over attention scores, and over logits.
      experts: the mixture of experts, if the MLP is one.
    """

    family: str
    vocab_size: int
    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    ropes: tuple[Rope | None, ...]
    norm_eps: float
    max_positions: int
    tied: bool
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norm: NormKind = "rms"
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: Literal["head", "row"] | None = None
    parallel: bool = False
    gated: bool = True
    activation: str = "silu"
    learned_positions: bool = False
    windows: tuple[int | None, ...] = (None,)
    embed_scale: float = 1.0
    score_scales: tuple[float, ...] | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    experts: Experts | None = None

    @property
    def maps(self) -> tuple[str, ...]:
        """The linear maps of a layer, which an adapter may stand beside."""
        if self.experts is not None:
            return ("q", "k", "v", "o")
        return ("q", "k", "v", "o", *(("gate",) if self.gated else ()), "up", "down")

    def map_shape(self, name: str) -> tuple[int, int]:
        """`(in, out)` of a linear map in `maps`."""
        d, f = self.d_model, self.d_ff
        heads, kv_heads = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        return {
            "q": (d, heads),
            "k": (d, kv_heads),
            "v": (d, kv_heads),
            "o": (heads, d),
            "gate": (d, f),
            "up": (d, f),
            "down": (f, d),
        }[name]
