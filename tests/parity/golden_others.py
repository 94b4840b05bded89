"""Golden cases: the families whose blocks or tensors are arranged otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

from golden_case import (
    ACT,
    BY_LENGTH,
    EPS,
    FULL,
    NORMS,
    SANDWICH,
    SHAPE,
    TANH,
    THETA,
    WINDOW,
    YARN,
    Case,
    F,
    S,
    local,
    rope,
    rope_old,
)

GPT2_SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "layer_norm_epsilon": 0.01,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PREFIX = "transformer."
GPT2_NAMES: dict[str, Any] = {
    "rename": ((rf"^{PREFIX}", ""),),
    "layouts": {"prefixed": (("^", PREFIX),)},
    "extra": {f"h.{layer}.attn.bias": (1, 1, 64, 64) for layer in range(4)},
}
GPT2_OFF = {
    "layer_norm_epsilon": {"layer_norm_epsilon": 1e-5},
    "activation_function": {"activation_function": "relu"},
}
GPT2 = {
    "gpt2-plain": Case(
        "GPT2LMHeadModel",
        GPT2_SHAPE,
        {**GPT2_OFF, "gelu": {"activation_function": "gelu"}},
        skip={"wpe": "wpe.weight", "biases": r"attn\.c_attn\.bias", "norm biases": r"ln_\w\.bias"},
        published={"n_ctx": 64, "task_specific_params": {"text-generation": {"do_sample": True}}},
        **GPT2_NAMES,
    ),
    "gpt2-inverse": Case(
        "GPT2LMHeadModel",
        {**GPT2_SHAPE, "n_inner": 48, "scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": False}},
        **GPT2_NAMES,
    ),
    "gpt2-unscaled": Case(
        "GPT2LMHeadModel",
        {**GPT2_SHAPE, "n_inner": 48, "scale_attn_weights": False, "activation_function": "relu"},
        {
            "scale_attn_weights": {"scale_attn_weights": True},
            "activation_function": {"activation_function": "gelu_new"},
        },
        **GPT2_NAMES,
    ),
}

NEOX_SHAPE: dict[str, Any] = {
    **{k: v for k, v in SHAPE.items() if k not in ("rms_norm_eps", "num_key_value_heads")},
    "layer_norm_eps": 0.01,
    "hidden_act": "gelu",
    "hidden_size": 48,
    "num_attention_heads": 3,
}
NEOX_NAMES: dict[str, Any] = {
    "layouts": {"renamed": ((r"^embed_out\.", "lm_head."),)},
    "extra": {
        f"gpt_neox.layers.{layer}.attention.{name}": shape
        for layer in range(4)
        for name, shape in {
            "bias": (1, 1, 64, 64),
            "masked_bias": (),
            "rotary_emb.inv_freq": (2,),
        }.items()
    },
}


def rotary(part: float) -> dict[str, Any]:
    """A rotary embedding over a part of each head."""
    return rope(partial_rotary_factor=part)


def rotary_old(part: float) -> dict[str, Any]:
    """The same as published GPT-NeoX files declare it."""
    return {"rope_parameters": ..., "rotary_pct": part, "rotary_emb_base": 10_000}


def neox(part: float, off: dict[str, Any], **config: Any) -> Case:
    """A GPT-NeoX."""
    return Case(
        "GPTNeoXForCausalLM",
        {**NEOX_SHAPE, **rotary(part), **config},
        off,
        published=rotary_old(part),
        **NEOX_NAMES,
    )


SEQUENTIAL = {"use_parallel_residual": {"use_parallel_residual": False}}
PARALLEL = {"use_parallel_residual": {"use_parallel_residual": True}}
GPT_NEOX = {
    "gpt_neox-parallel": neox(
        0.25,
        {
            **SEQUENTIAL,
            "rotary_pct": rotary(1.0),
            "rotary_emb_base": rope(theta=100.0, partial_rotary_factor=0.25),
            "layer_norm_eps": {"layer_norm_eps": 1e-5},
            **ACT,
            **TANH,
        },
    ),
    "gpt_neox-sequential": neox(0.25, PARALLEL, use_parallel_residual=False),
    "gpt_neox-rotary": neox(1.0, {"rotary_pct": rotary(0.25)}),
    "gpt_neox-unbiased": neox(0.5, SEQUENTIAL, attention_bias=False),
    "gpt_neox-tied": neox(0.5, SEQUENTIAL, tie_word_embeddings=True),
}

GPT_NEOX["gpt_neox-parallel"] = dataclasses.replace(GPT_NEOX["gpt_neox-parallel"], attention=True)

OLMO3_ROPE = local(5e5, 5e5, kind="yarn", attention_factor=1.2, **YARN)
OLMO = {
    "olmo2-gqa": Case(
        "Olmo2ForCausalLM",
        {**SHAPE, **rope(theta=5e5)},
        {**THETA, **EPS, **ACT},
        skip={**SANDWICH, **NORMS},
        published=rope_old(5e5),
    ),
    "olmo2-biases": Case(
        "Olmo2ForCausalLM",
        {**SHAPE, **rope(theta=5e5), "attention_bias": True, "tie_word_embeddings": True},
        {"attention_bias": {"attention_bias": False}},
    ),
    "olmo3-yarn": Case(
        "Olmo3ForCausalLM",
        {**SHAPE, **OLMO3_ROPE, "sliding_window": WINDOW, "layer_types": [S, S, S, F]},
        {
            "sliding_window": FULL,
            "layer_types": {"layer_types": [F, S, S, S]},
            "rope_scaling": local(5e5, 5e5),
        },
        published={
            **rope_old(5e5, rope_type="yarn", attention_factor=1.2, **YARN),
            "layer_types": ...,
        },
    ),
}

FACTORS = {
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.2, 2.7, 3.3],
    "long_factor": [1.2, 2.0, 3.5, 5.0, 8.0, 12.0, 20.0, 32.0],
}
PHI3_SHAPE = {**SHAPE, "hidden_size": 64}
LONG = {"original_max_position_embeddings": 16}


def longrope(part: float = 1.0, **changes: Any) -> dict[str, Any]:
    """Phi-3's rotary embedding, with as many factors as the part of a head has pairs."""
    factors = {k: v[: int(8 * part)] for k, v in {**FACTORS, **changes}.items()}
    return {**rope("longrope", partial_rotary_factor=part, **factors), **LONG}


def longrope_old(part: float = 1.0) -> dict[str, Any]:
    """The same as published files declare it."""
    factors = {k: v[: int(8 * part)] for k, v in FACTORS.items()}
    older = rope_old(type="longrope", **factors)
    return {**older, "partial_rotary_factor": part} if part < 1 else older


ONES = [1.0] * 8
LONG_OFF = {
    "rope_scaling": rope(partial_rotary_factor=1.0),
    "short_factor": longrope(short_factor=ONES),
    "long_factor": longrope(long_factor=ONES),
    "original_max_position_embeddings": {**longrope(), "original_max_position_embeddings": 32},
}
PHI3 = {
    "phi3-sliding": Case(
        "Phi3ForCausalLM",
        {**PHI3_SHAPE, **rope(partial_rotary_factor=1.0), "sliding_window": WINDOW},
        {"sliding_window": {"sliding_window": None}, **EPS, **ACT},
        published={**rope_old(), "original_max_position_embeddings": 64},
        attention=True,
    ),
    "phi3-longrope": Case(
        "Phi3ForCausalLM",
        {**PHI3_SHAPE, **longrope()},
        LONG_OFF,
        published=longrope_old(),
        causes=BY_LENGTH,
    ),
    "phi3-partial": Case(
        "Phi3ForCausalLM",
        {**PHI3_SHAPE, **rope(partial_rotary_factor=0.5), "tie_word_embeddings": True},
        {"partial_rotary_factor": rope(partial_rotary_factor=1.0)},
        published={**rope_old(), "partial_rotary_factor": 0.5},
    ),
    "phi3-partial_longrope": Case(
        "Phi3ForCausalLM",
        {**PHI3_SHAPE, **longrope(0.75)},
        {"rope_scaling": rope(partial_rotary_factor=0.75)},
        published=longrope_old(0.75),
        causes=BY_LENGTH,
    ),
}
