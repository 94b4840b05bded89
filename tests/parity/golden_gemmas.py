"""Golden cases: Gemma 2 and 3, the multimodal wrapper too."""

from __future__ import annotations

from typing import Any

from golden_case import (
    EPS,
    FULL,
    NORMS,
    SANDWICH,
    WIDE,
    WINDOW,
    Case,
    F,
    S,
    local,
    rope,
    rope_old,
)

GEMMA: dict[str, Any] = {
    **WIDE,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 9,
}
GEMMA_OFF = {
    **EPS,
    "hidden_activation": {"hidden_activation": "silu"},
    "gelu": {"hidden_activation": "gelu"},
    "query_pre_attn_scalar": {"query_pre_attn_scalar": 16},
    "sliding_window": FULL,
}
CAPS = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}
CAPS_OFF = {
    "attn_logit_softcapping": {"attn_logit_softcapping": None},
    "final_logit_softcapping": {"final_logit_softcapping": None},
}
GEMMA2 = {
    "gemma2-alternating": Case(
        "Gemma2ForCausalLM",
        {**GEMMA, **rope(), **CAPS},
        {**GEMMA_OFF, **CAPS_OFF, "layer_types": {"layer_types": [F, S, F, S]}},
        skip=SANDWICH,
        published={**rope_old(), "rope_scaling": ..., "hidden_act": "gelu_pytorch_tanh"},
        attention=True,
    ),
    "gemma2-mqa": Case(
        "Gemma2ForCausalLM",
        {**GEMMA, **rope(), **CAPS, "num_key_value_heads": 1, "attn_logit_softcapping": None},
        {"final_logit_softcapping": CAPS_OFF["final_logit_softcapping"]},
    ),
}


THREE_OF_FOUR = {"layer_types": [S, S, S, F]}
SCALED = {"kind": "linear", "factor": 4.0}
GEMMA3_TEXT = {
    "gemma3_text-local": Case(
        "Gemma3ForCausalLM",
        {**GEMMA, **THREE_OF_FOUR, **local(100.0, 1e6, **SCALED)},
        {
            **GEMMA_OFF,
            "layer_types": {"layer_types": [F, S, S, S]},
            "rope_local_base_freq": local(1e4, 1e6, **SCALED),
            "rope_theta": local(100.0, 100.0, **SCALED),
            "rope_scaling": local(100.0, 1e6),
        },
        skip={**SANDWICH, **NORMS},
        published={
            **rope_old(1e6, rope_type="linear", factor=4.0),
            "rope_local_base_freq": 100.0,
            "sliding_window_pattern": 4,
            "layer_types": ...,
            "cache_implementation": "hybrid",
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "gemma3_text-caps": Case(
        "Gemma3ForCausalLM",
        {**GEMMA, **THREE_OF_FOUR, **local(1e4, 1e6), **CAPS},
        {"final_logit_softcapping": CAPS_OFF["final_logit_softcapping"]},
        inert={"attn_logit_softcapping": CAPS_OFF["attn_logit_softcapping"]},
    ),
}
TOP = {"boi_token_index": 60, "eoi_token_index": 61, "image_token_index": 62}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "vision_use_head": False,
}
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 9,
    "sliding_window": WINDOW,
}
GEMMA3 = {
    "gemma3-wrapper": Case(
        "Gemma3ForConditionalGeneration",
        {
            **TOP,
            "mm_tokens_per_image": 4,
            "text_config": {**TEXT, **local(1e4, 1e6, **SCALED), "final_logit_softcapping": 2.0},
            "vision_config": VISION,
        },
        {
            "query_pre_attn_scalar": {"text_config": {"query_pre_attn_scalar": 16}},
            "sliding_window": {"text_config": {"layer_types": [F] * 7}},
            "layer_types": {"text_config": {"layer_types": [S] * 7}},
            "rope_scaling": {"text_config": local(1e4, 1e6)},
        },
        inert={"final_logit_softcapping": {"text_config": {"final_logit_softcapping": None}}},
        skip={name: f"language_model.*{name}" for name in ("q_norm", "k_norm")},
        published={
            "mm_tokens_per_image": 4,
            "text_config": {
                "model_type": "gemma3_text",
                **TEXT,
                "rope_scaling": {"factor": 4.0, "rope_type": "linear"},
            },
        },
        layouts={
            "nested": (
                (r"^language_model\.model\.", "model.language_model."),
                (r"^vision_tower\.", "model.vision_tower."),
                (r"^multi_modal_projector\.", "model.multi_modal_projector."),
            )
        },
        rename=((r"^vision_tower\.", "vision_tower.vision_model."),),
        ignored=r"vision_tower|multi_modal_projector",
    ),
}
