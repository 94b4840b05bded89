"""Gemma 2 and 3: sandwich norms, soft caps, local layers."""

from __future__ import annotations

import math
from typing import Any

from selfx.models.config import Rope
from selfx.models.zoo.family import (
    ACTIVATIONS,
    Family,
    Sizes,
    head_width,
    layer_kinds,
    llama,
    window,
    windows,
)
from selfx.models.zoo.fields import Fields
from selfx.models.zoo.rope import read_rope


def _gemma2(fields: Fields, sizes: Sizes, kind: str = "") -> dict[str, Any]:
    n = sizes["n_layers"]
    slides = layer_kinds(fields, n, ["full" if i % 2 else "sliding" for i in range(n)])
    return {
        **llama(fields, sizes, kind=kind),
        "activation": fields.word("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        "norm": "rms_plus_one",
        "post_norm": True,
        "windows": windows(slides, window(fields, 4096)),
        "embed_scale": math.sqrt(sizes["d_model"]),
        "score_scales": (fields.number("query_pre_attn_scalar") ** -0.5,),
        "score_cap": fields.optional_number("attn_logit_softcapping", 50.0),
        "logit_cap": fields.optional_number("final_logit_softcapping", 30.0),
    }


def _gemma3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    """Its own implementation keeps `attn_logit_softcapping` and never applies it."""
    n, d_head = sizes["n_layers"], head_width(fields, sizes)
    every = fields.size("sliding_window_pattern", 6)
    slides = layer_kinds(fields, n, ["sliding" if (i + 1) % every else "full" for i in range(n)])
    found, near = _gemma2(fields, sizes, "full_attention"), _gemma3_near(fields, sizes, d_head)
    whole = found["ropes"][0]
    return {
        **found,
        "ropes": tuple(whole if kind == "full" else near for kind in slides),
        "windows": windows(slides, window(fields, 4096)),
        "qk_norm": "head",
        "score_cap": None,
        "logit_cap": fields.optional_number("final_logit_softcapping"),
    }


def _gemma3_near(fields: Fields, sizes: Sizes, d_head: int) -> Rope:
    """The rotary embedding of the layers that see a window."""
    if "sliding_attention" in (fields.values.get("rope_parameters") or {}):
        return read_rope(fields, sizes["max_positions"], d_head, kind="sliding_attention")
    return Rope(fields.number("rope_local_base_freq"))


_GEMMA = """head_dim num_key_value_heads rms_norm_eps hidden_activation attention_bias layer_types
    sliding_window query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping"""

GEMMAS: dict[str, Family] = {
    "gemma2": Family(
        "sandwich norms, soft caps, every other layer with a window",
        _gemma2,
        _GEMMA,
        ignored="hidden_act sliding_window_size",
        tied=True,
    ),
    "gemma3_text": Family(
        "sandwich norms, normed queries and keys, local layers with a rotary base of their own",
        _gemma3,
        f"{_GEMMA} sliding_window_pattern rope_local_base_freq",
        ignored="_sliding_window_pattern hidden_act",
        tied=True,
    ),
}
