"""What a decoder is made of: every number comes from a checkpoint, none has a default."""

from __future__ import annotations

import dataclasses
from typing import Literal

RopeKind = Literal["linear", "dynamic", "yarn", "llama3"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How a rotary embedding is stretched past the length that the model was first trained on.

    Attributes:
      kind: `linear` divides positions (Chen et al. 2023, arXiv 2306.15595); `dynamic` raises the
        base with the length (NTK-aware); `yarn` blends both by frequency (Peng et al. 2023,
        arXiv 2309.00071); `llama3` is Llama 3.1's piecewise rule.
      factor: how many times longer.
      original_max_positions: the length before stretching, in tokens.
      low_freq_factor, high_freq_factor: the wavelength limits of `llama3`.
      beta_fast, beta_slow: the rotation-count limits of `yarn`.
      attention_factor: what `yarn` multiplies cosines and sines by.
      truncate: whether `yarn` rounds its limits to whole dimensions.
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


@dataclasses.dataclass(frozen=True)
class Config:
    """The architecture of a decoder in the Llama layout.

    Hashable, so that it can be a static part of a parameter tree.

    Attributes:
      family: a name in `selfx.models.zoo.FAMILIES`.
      vocab_size: `v`.
      d_model: `d`, the width of the residual stream.
      d_ff: `f`, the width inside the MLP.
      n_layers: `l`.
      n_heads: `h`, query heads.
      n_kv_heads: `k`, key and value heads; `h` is a multiple of it.
      d_head: `e`, the width of a head.
      rope_theta: the base of the rotary frequencies.
      rope_scaling: how they are stretched, or None.
      norm_eps: added to the mean square in RMSNorm.
      max_positions: the longest text that the model was made for, in tokens.
      tied: whether the embedding is also the unembedding.
      attention_bias, mlp_bias: whether those linear maps add a bias.
    """

    family: str
    vocab_size: int
    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    max_positions: int
    tied: bool
    attention_bias: bool
    mlp_bias: bool

    @property
    def n_parameters(self) -> int:
        """The number of weights, a tied head counted once."""
        attention = self.d_model * self.d_head * 2 * (self.n_heads + self.n_kv_heads)
        mlp = 3 * self.d_model * self.d_ff
        biases = self.attention_bias * (
            self.d_head * (self.n_heads + 2 * self.n_kv_heads) + self.d_model
        ) + self.mlp_bias * (2 * self.d_ff + self.d_model)
        layers = self.n_layers * (attention + mlp + biases + 2 * self.d_model)
        heads = self.vocab_size * self.d_model * (1 if self.tied else 2)
        return layers + heads + self.d_model
