"""How a model that golden files are made of is declared, and what several declarations share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Any]
Names = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and what is to be shown of it.

    Attributes:
      model: the class in transformers.
      config: the arguments of its config class.
      off: for each switch, the changed arguments that turn it off.
      inert: the same for switches that torch reads and then leaves unused, so that nothing changes.
      skip: for each switch without an argument, a pattern of the modules or biases to leave out.
      published: how a published `config.json` differs from `config`; `...` leaves a key out.
      attention: whether to keep the attention weights.
      rename: patterns and replacements, from the names that torch saves to the published ones.
      layouts: patterns and replacements from the published names to others in use.
      extra: tensors that published files have besides, to be ignored.
      ignored: a pattern of further tensors to be ignored.
      stands_for: the `config.json` keys of a model type that transformers does not have.
      causes: for each way of running in which torch contradicts itself, why.
    """

    model: str
    config: Changes
    off: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    inert: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)
    published: Changes | None = None
    attention: bool = False
    rename: Names = ()
    layouts: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    ignored: str = "^$"
    stands_for: Changes | None = None
    causes: Mapping[str, str] = dataclasses.field(default_factory=dict)


WINDOW = 5
S, F = "sliding_attention", "full_attention"
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.01,  # large, so that leaving it out or misplacing it shows
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WIDE: dict[str, Any] = {**SHAPE, "head_dim": 16, "hidden_size": 40}
"""Heads that are wider together than the residual stream."""
EPS = {"rms_norm_eps": {"rms_norm_eps": 1e-6}}
ACT = {"hidden_act": {"hidden_act": "relu"}}
TANH = {"gelu": {"hidden_act": "gelu_pytorch_tanh"}}
FULL = {"layer_types": [F] * 4}


def rope(kind: str = "default", theta: float = 10_000.0, **more: Any) -> dict[str, Any]:
    """A rotary embedding as transformers 5 declares it."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


def rope_old(theta: float = 10_000.0, **scaling: Any) -> dict[str, Any]:
    """The same as published files declare it."""
    return {"rope_parameters": ..., "rope_theta": theta, "rope_scaling": scaling or None}


def local(local_theta: float, theta: float, **scaling: Any) -> dict[str, Any]:
    """Rotary embeddings of layers with a window and of those without."""
    whole = {"rope_type": scaling.pop("kind", "default"), "rope_theta": theta, **scaling}
    return {"rope_parameters": {F: whole, S: {"rope_type": "default", "rope_theta": local_theta}}}


THETA = {"rope_theta": rope(theta=100.0)}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 0.05,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "factor": 4.0,
    "beta_fast": 2.0,
    "beta_slow": 0.05,
    "original_max_position_embeddings": 16,
}

NORMS = {"q_norm": r"\.q_norm", "k_norm": r"\.k_norm"}
SANDWICH = {
    "post_attention_layernorm": "post_attention_layernorm",
    "post_feedforward_layernorm": "post_feedforward_layernorm",
}
WHOLE_BATCH = "every row is turned at the frequencies of the longest row in the batch"
KEYS_STAY = "a token is turned for the length reached by then, and its cached key stays as it was"
BY_LENGTH = {"left_padded": WHOLE_BATCH, "right_padded": WHOLE_BATCH, "cached": KEYS_STAY}
