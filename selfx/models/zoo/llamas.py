"""Families that are Llama but for a switch or two."""

from __future__ import annotations

from typing import Any

from selfx.errors import SelfxError
from selfx.models.config import Experts, Rope
from selfx.models.zoo.family import (
    PLAIN,
    Family,
    Sizes,
    head_width,
    layer_kinds,
    llama,
    window,
    windows,
)
from selfx.models.zoo.fields import Fields
from selfx.models.zoo.rope import RopeRules, read_rope


def _llama_2_on(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    """Llama 2's files are older than `rope_theta`; its code had 10,000."""
    return llama(fields, sizes, RopeRules(theta=10_000.0))


def _smollm3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    found, n = llama(fields, sizes), sizes["n_layers"]
    every = fields.size("no_rope_layer_interval", 4)
    turned = fields.items("no_rope_layers", n) or [(i + 1) % every != 0 for i in range(n)]
    size = window(fields) if fields.flag("use_sliding_window", False) else None
    slides = layer_kinds(fields, n, ["full" if turns else "sliding" for turns in turned])
    return {
        **found,
        "ropes": tuple(found["ropes"][0] if turns else None for turns in turned),
        "windows": windows(slides, size),
    }


def _mistral(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    return {**llama(fields, sizes), "windows": (window(fields, 4096),)}


def _ministral(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    n = sizes["n_layers"]
    slides = layer_kinds(fields, n, ["sliding"] * n)
    return {**llama(fields, sizes), "windows": windows(slides, window(fields, 4096))}


def _qwen2(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    biases = {"attention_bias": True, "output_bias": False}
    return {**llama(fields, sizes), **biases, "windows": _late_windows(fields, sizes)}


def _qwen3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    windows = _late_windows(fields, sizes)
    return {**llama(fields, sizes), "qk_norm": "head", "windows": windows}


def _qwen3_moe(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    if fields.values.get("mlp_only_layers") or fields.size("decoder_sparse_step", 1) != 1:
        raise SelfxError(
            "config.json mixes layers with experts and layers without",
            expected="experts in every layer: mlp_only_layers empty, decoder_sparse_step 1",
        )
    n_experts = "num_experts" if "num_experts" in fields.values else "num_local_experts"
    experts = Experts(
        fields.size(n_experts),
        fields.size("num_experts_per_tok"),
        fields.flag("norm_topk_prob", False),
    )
    size = window(fields) if fields.flag("use_sliding_window", False) else None
    return {
        **llama(fields, sizes),
        "d_ff": fields.size("moe_intermediate_size"),
        "qk_norm": "head",
        "windows": (size,),
        "experts": experts,
    }


def _late_windows(fields: Fields, sizes: Sizes) -> tuple[int | None, ...]:
    """Qwen's: none unless it is switched on, and then in the layers from some layer on."""
    if not fields.flag("use_sliding_window", False):
        return (None,)
    n, first = sizes["n_layers"], fields.values.get("max_window_layers", 28)
    slides = layer_kinds(fields, n, ["sliding" if i >= first else "full" for i in range(n)])
    return windows(slides, window(fields, 4096))


def _olmo2(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    norms = {"pre_norm": False, "post_norm": True, "qk_norm": "row"}
    return {**llama(fields, sizes), **norms}


def _olmo3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    n, d_head = sizes["n_layers"], head_width(fields, sizes)
    norms = {"pre_norm": False, "post_norm": True, "qk_norm": "row"}
    found = {**llama(fields, sizes, kind="full_attention"), **norms}
    slides = layer_kinds(fields, n, ["sliding" if (i + 1) % 4 else "full" for i in range(n)])
    near = Rope(fields.values.get("rope_theta") or found["ropes"][0].theta)
    if "sliding_attention" in (fields.values.get("rope_parameters") or {}):
        near = read_rope(fields, sizes["max_positions"], d_head, kind="sliding_attention")
    return {
        **found,
        "ropes": tuple(found["ropes"][0] if kind == "full" else near for kind in slides),
        "windows": windows(slides, window(fields, 4096)),
    }


def _phi3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    rules = RopeRules(partial=True, longrope=("su", "yarn"), original=4096)
    return {**llama(fields, sizes, rules), "windows": (window(fields),)}


_QWEN = f"{PLAIN} use_sliding_window sliding_window max_window_layers layer_types"

LLAMAS: dict[str, Family] = {
    "llama": Family(
        "RMSNorm, rotary, grouped queries, gated SiLU MLP", _llama_2_on, f"{PLAIN} mlp_bias"
    ),
    "smollm3": Family(
        "every fourth layer without rotary positions",
        _smollm3,
        f"{PLAIN} mlp_bias no_rope_layers no_rope_layer_interval use_sliding_window"
        " sliding_window layer_types",
        ignored="max_window_layers",
        tied=True,
    ),
    "mistral": Family("a window over every layer", _mistral, f"{PLAIN} sliding_window"),
    "ministral": Family(
        "a window over some layers", _ministral, f"{PLAIN} sliding_window layer_types"
    ),
    "qwen2": Family("biased queries, keys and values", _qwen2, _QWEN),
    "qwen3": Family("queries and keys normed a head apart", _qwen3, _QWEN),
    "qwen3_moe": Family(
        "Qwen3 with a mixture of experts",
        _qwen3_moe,
        f"{_QWEN} num_experts num_local_experts num_experts_per_tok norm_topk_prob"
        " moe_intermediate_size decoder_sparse_step mlp_only_layers",
        ignored="router_aux_loss_coef output_router_logits",
    ),
    "mimo": Family(
        "Qwen2's decoder; its heads for several tokens at once are left out",
        _qwen2,
        _QWEN,
        ignored="num_nextn_predict_layers",
    ),
    "olmo2": Family(
        "norms after attention and MLP only, queries and keys normed whole", _olmo2, PLAIN
    ),
    "olmo3": Family(
        "OLMo 2 with local layers, whose rotary positions are not stretched",
        _olmo3,
        f"{PLAIN} sliding_window layer_types",
    ),
    "phi3": Family(
        "fused maps, long rotary factors, part of each head turned",
        _phi3,
        f"{PLAIN} sliding_window partial_rotary_factor",
    ),
}
