"""The architecture that a GGUF file's metadata declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.models.config import Config, Rope, RopeScaling
from selfx.models.zoo import check_family, checked
from selfx.models.zoo.fields import Fields
from selfx.models.zoo.rope import yarn_attention_factor
from selfx.weights.tables import GGUF_FAMILIES

_NAMES = {
    "embedding_length": "d_model",
    "feed_forward_length": "d_ff",
    "block_count": "n_layers",
    "attention.head_count": "n_heads",
    "context_length": "max_positions",
}

_READ = frozenset(
    [
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "vocab_size",
    ]
) | frozenset(_NAMES)

_HARMLESS = frozenset({"rope.scaling.finetuned", "tensor_data_layout"})

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scale_linear": (1,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
}


def config_from_gguf(
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    rope_factors: np.ndarray | None = None,
) -> Config:
    """The architecture of a GGUF file.

    Args:
      metadata: the file's fields.
      shapes: `{tensor's name: shape}`; biases and an untied head are declared by their presence.
      rope_factors: the tensor `rope_freqs.weight`, by which frequencies are divided, if there.

    Raises:
      SelfxError: another architecture, a missing number, or a field that is not honoured.
    """
    family = metadata.get("general.architecture")
    check_family(family, "its metadata", GGUF_FAMILIES)
    start = f"{family}."
    own = {key.removeprefix(start): v for key, v in metadata.items() if key.startswith(start)}
    fields = Fields(own, f"its {family} metadata")
    fields.refuse_unknown(_READ | _HARMLESS | _NEUTRAL.keys())
    fields.refuse_values(_NEUTRAL)
    sizes: dict[str, Any] = {name: fields.size(key) for key, name in _NAMES.items()}
    theta, d_head = fields.number("rope.freq_base"), _d_head(fields, sizes)
    scaling = _scaling(fields, sizes["max_positions"], theta, d_head, rope_factors)
    return checked(
        Config(
            family=str(family),
            vocab_size=_vocab_size(fields, shapes),
            **sizes,
            n_kv_heads=fields.size("attention.head_count_kv", sizes["n_heads"]),
            d_head=d_head,
            ropes=(Rope(theta, scaling),),
            norm_eps=_short(fields.number("attention.layer_norm_rms_epsilon")),
            tied="output.weight" not in shapes,
            attention_bias="blk.0.attn_q.bias" in shapes,
            output_bias="blk.0.attn_output.bias" in shapes,
            mlp_bias="blk.0.ffn_gate.bias" in shapes,
        )
    )


def _short(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for what is stored as 9.99999975e-06."""
    return float(str(np.float32(value)))


def _vocab_size(fields: Fields, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of the embedding, which the metadata may not contradict."""
    if "token_embd.weight" not in shapes:
        raise SelfxError("it has no tensor token_embd.weight", expected="the embedding")
    rows = shapes["token_embd.weight"][0]
    declared = fields.size("vocab_size", rows)
    if declared != rows:
        raise SelfxError(
            f"its embedding has {rows} rows", expected=f"{declared}, its declared vocab_size"
        )
    return rows


def _d_head(fields: Fields, sizes: Mapping[str, int]) -> int:
    """The width of a head, on which key, value and rotary widths must agree."""
    shared = max(sizes["d_model"] // sizes["n_heads"], 1)
    width = fields.size("attention.key_length", shared)
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.size(key, width) != width:
            raise SelfxError(
                f"{fields.where} has {key} = {fields.values[key]}",
                expected=f"{width}, the width of a head: nothing else is implemented",
            )
    return width


def _scaling(
    fields: Fields, max_positions: int, theta: float, d_head: int, factors: np.ndarray | None
) -> RopeScaling | None:
    kind = fields.values.get("rope.scaling.type", "none")
    if factors is not None:
        if kind not in ("none", "linear") or fields.number("rope.scaling.factor", 1) != 1:
            raise SelfxError(f"it has rope_freqs.weight and {kind} scaling", expected="one of them")
        return _llama3(theta ** (np.arange(0, d_head, 2) / d_head), factors)
    if kind == "none":
        return None
    factor = fields.number("rope.scaling.factor")
    original = fields.size("rope.scaling.original_context_length", max_positions)
    if kind == "linear":
        return RopeScaling("linear", factor, max_positions)
    if kind != "yarn":
        raise SelfxError(
            f"its rope is scaled by {kind!r}", expected="none, linear, yarn, or rope_freqs.weight"
        )
    extra = fields.number("rope.scaling.attn_factor", 1)
    return RopeScaling(
        "yarn",
        factor,
        original,
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1),
        attention_factor=extra * yarn_attention_factor(factor),
    )


def _llama3(periods: np.ndarray, factors: np.ndarray) -> RopeScaling | None:
    """The Llama 3.1 rule that yields `factors` `[e/2]`, which is all that such a file records.

    The file does not say what the rule was set to. All models of the 3.1 to 3.3 series share every
    setting but the largest factor; if that does not reproduce the tensor, it is not understood.
    """
    if factors.shape != periods.shape:
        raise SelfxError(
            f"its rope_freqs.weight has shape {list(factors.shape)}", expected=f"[{periods.size}]"
        )
    if np.all(factors == 1):
        return None
    scaling = RopeScaling("llama3", float(factors.max()), 8192, 1.0, 4.0)
    turns = scaling.original_max_positions / (2 * np.pi * periods)
    kept = np.clip((turns - scaling.low_freq_factor) / 3, 0, 1)
    if not np.allclose(1 / ((1 - kept) / scaling.factor + kept), factors, rtol=1e-4, atol=0):
        raise SelfxError(
            "its rope_freqs.weight follows no rule that is known",
            expected="the factors of Llama 3.1: low 1, high 4, 8192 original positions",
            hint="use the Hugging Face folder of the same model, whose config says the rule",
        )
    return scaling
