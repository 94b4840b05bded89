"""Golden cases: Llama and the families that differ from it in switches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from golden_case import (
    ACT,
    BY_LENGTH,
    EPS,
    FULL,
    LLAMA3,
    NORMS,
    SHAPE,
    TANH,
    THETA,
    WIDE,
    WINDOW,
    YARN,
    Case,
    Changes,
    F,
    S,
    rope,
    rope_old,
)


def llama(off: Mapping[str, Changes], **config: Any) -> Case:
    """A Llama."""
    return Case("LlamaForCausalLM", {**SHAPE, **rope(), **config}, off)


def stretched(kind: str, **scaling: Any) -> Case:
    """A Llama whose rotary embedding is stretched."""
    off = {"rope_scaling": rope()}
    for name in sorted(scaling.keys() - YARN.keys() - LLAMA3.keys()):
        off[name] = rope(kind, **{k: v for k, v in scaling.items() if k != name})
    case = llama(off, head_dim=16, **rope(kind, **scaling))
    older = rope_old(rope_type=kind, **scaling)
    return dataclasses.replace(case, published={**older, "torch_dtype": "bfloat16"})


LLAMA = {
    "llama-gqa": dataclasses.replace(llama({**THETA, **EPS, **ACT}), attention=True),
    "llama-mqa": llama({**ACT, **TANH}, num_key_value_heads=1, hidden_act="gelu"),
    "llama-tied": llama(THETA, tie_word_embeddings=True),
    "llama-biases": llama(
        {"attention_bias": {"attention_bias": False}, "mlp_bias": {"mlp_bias": False}},
        attention_bias=True,
        mlp_bias=True,
    ),
    "llama-head_dim": llama(THETA, **WIDE),
    "llama-linear": stretched("linear", factor=4.0),
    "llama-dynamic": dataclasses.replace(
        llama({"rope_scaling": rope()}, max_position_embeddings=16, **rope("dynamic", factor=4.0)),
        causes=BY_LENGTH,
    ),
    "llama-llama3": stretched("llama3", **LLAMA3),
    "llama-yarn": stretched("yarn", **YARN),
    "llama-yarn_truncate": stretched("yarn", truncate=False, attention_factor=1.5, **YARN),
    "llama-yarn_mscale": stretched("yarn", mscale=0.7, mscale_all_dim=2.0, **YARN),
}

NOPE = {**SHAPE, **rope(theta=2e6), "tie_word_embeddings": True, "no_rope_layers": [1, 0, 1, 0]}
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}
NO_SLIDING = {"use_sliding_window": False, "sliding_window": None, **FULL}
EVERY_SECOND = {"no_rope_layers": ..., "no_rope_layer_interval": 2}
SMOLLM3 = {
    "smollm3-nope": Case(
        "SmolLM3ForCausalLM",
        NOPE,
        {"no_rope_layers": {"no_rope_layers": [1] * 4}, **EPS, **ACT},
        published={**rope_old(2e6), **EVERY_SECOND, "tie_word_embeddings": ...},
    ),
    "smollm3-sliding": Case(
        "SmolLM3ForCausalLM",
        {**NOPE, **SLIDING, "no_rope_layers": [1, 0, 0, 1], "attention_bias": True},
        {"no_rope_layers": {"no_rope_layers": [1] * 4}, "sliding_window": NO_SLIDING},
        published=rope_old(2e6),
    ),
}

MISTRAL = {
    "mistral-sliding": Case(
        "MistralForCausalLM",
        {**SHAPE, **rope(), "sliding_window": WINDOW},
        {"sliding_window": {"sliding_window": None}, **EPS, **ACT},
        published=rope_old(),
    ),
    "mistral-head_dim": Case(
        "MistralForCausalLM", {**WIDE, **rope(theta=1e6), "sliding_window": None}, THETA
    ),
    "ministral-layer_types": Case(
        "MinistralForCausalLM",
        {**WIDE, **rope(), "sliding_window": WINDOW, "layer_types": [F, S, S, F]},
        {"layer_types": {"layer_types": [S] * 4}, "sliding_window": FULL},
        published={**rope_old(), "layer_types": [F, S, S, F]},
    ),
}

LATER = {**SLIDING, "max_window_layers": 2}
LATER_OFF = {"sliding_window": NO_SLIDING, "max_window_layers": {"layer_types": [S] * 4}}
QWEN2 = {
    "qwen2-biases": Case(
        "Qwen2ForCausalLM",
        {**SHAPE, **rope(theta=1e6)},
        {**EPS, **ACT},
        skip={"biases": r"_proj\.bias"},
    ),
    "qwen2-sliding": Case(
        "Qwen2ForCausalLM",
        {**SHAPE, **rope(theta=1e6), **LATER, "tie_word_embeddings": True},
        LATER_OFF,
        published=rope_old(1e6),
    ),
    "qwen2-layer_types": Case(
        "Qwen2ForCausalLM",
        {**SHAPE, **rope(theta=1e6), **LATER, "layer_types": [S, F, F, S]},
        {"layer_types": {"layer_types": [F, F, S, S]}, "sliding_window": NO_SLIDING},
    ),
}
QWEN3 = {
    "qwen3-norms": Case(
        "Qwen3ForCausalLM",
        {**WIDE, **rope(theta=1e6)},
        {**EPS, **ACT},
        skip=NORMS,
        published={**rope_old(1e6), "attention_bias": False, "max_window_layers": 4},
    ),
    "qwen3-tied": Case(
        "Qwen3ForCausalLM", {**WIDE, **rope(theta=1e6), "tie_word_embeddings": True}, THETA
    ),
    "qwen3-biases": Case(
        "Qwen3ForCausalLM",
        {**WIDE, **rope(theta=1e6), "attention_bias": True},
        {"attention_bias": {"attention_bias": False}},
    ),
    "qwen3-sliding": Case(
        "Qwen3ForCausalLM", {**WIDE, **rope(theta=1e6), **LATER}, LATER_OFF, published=rope_old(1e6)
    ),
}
MTP = {
    "token_layernorm.weight": (32,),
    "hidden_layernorm.weight": (32,),
    "input_proj.weight": (32, 64),
    "input_layernorm.weight": (32,),
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.q_proj.bias": (32,),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.k_proj.bias": (16,),
    "self_attn.v_proj.weight": (16, 32),
    "self_attn.v_proj.bias": (16,),
    "self_attn.o_proj.weight": (32, 32),
    "post_attention_layernorm.weight": (32,),
    "mlp.gate_proj.weight": (48, 32),
    "mlp.up_proj.weight": (48, 32),
    "mlp.down_proj.weight": (32, 48),
    "final_layernorm.weight": (32,),
}
MIMO = {
    "mimo-mtp": Case(
        "Qwen2ForCausalLM",
        {**SHAPE, **rope(theta=640_000.0), "max_window_layers": 4},
        EPS,
        skip={"biases": r"_proj\.bias"},
        extra={f"model.mtp_layers.0.{name}": shape for name, shape in MTP.items()},
        stands_for={
            "architectures": ["MiMoForCausalLM"],
            "model_type": "mimo",
            "auto_map": {
                "AutoConfig": "configuration_mimo.MiMoConfig",
                "AutoModelForCausalLM": "modeling_mimo.MiMoForCausalLM",
            },
            **rope_old(640_000.0),
            "attention_bias": True,
            "attention_dropout": 0.0,
            "head_dim": 8,
            "hidden_act": "silu",
            "num_nextn_predict_layers": 1,
            "sliding_window": 64,
            "torch_dtype": "bfloat16",
            "use_mrope": False,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
        },
    ),
}
MOE = {
    **WIDE,
    **rope(theta=1e6),
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
QWEN3_MOE = {
    "qwen3_moe-normed": Case(
        "Qwen3MoeForCausalLM",
        {**MOE, "norm_topk_prob": True},
        {
            "norm_topk_prob": {"norm_topk_prob": False},
            "num_experts_per_tok": {"num_experts_per_tok": 1},
            **EPS,
            **ACT,
        },
        skip=NORMS,
        published={
            **rope_old(1e6),
            "attention_bias": False,
            "max_window_layers": 4,
            "sliding_window": None,
            "use_sliding_window": False,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        },
    ),
    "qwen3_moe-raw": Case(
        "Qwen3MoeForCausalLM",
        {**MOE, "norm_topk_prob": False},
        {
            "norm_topk_prob": {"norm_topk_prob": True},
            "num_experts_per_tok": {"num_experts_per_tok": 3},
        },
        published={**rope_old(1e6), "norm_topk_prob": ..., "mlp_only_layers": ...},
    ),
}
