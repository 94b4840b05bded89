"""GPT-2 and GPT-NeoX: LayerNorm, a plain MLP, biases."""

from __future__ import annotations

from typing import Any

from selfx.models.zoo.family import ACTIVATIONS, Family, Sizes, head_width
from selfx.models.zoo.fields import Fields
from selfx.models.zoo.rope import RopeRules, read_rope


def _gpt2(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    d_head, inner = head_width(fields, sizes), fields.values.get("n_inner")
    scale = d_head**-0.5 if fields.flag("scale_attn_weights", True) else 1.0
    falling = fields.flag("scale_attn_by_inverse_layer_idx", False)
    layers = range(sizes["n_layers"]) if falling else range(1)
    return {
        "n_kv_heads": sizes["n_heads"],
        "d_head": d_head,
        "d_ff": 4 * sizes["d_model"] if inner is None else fields.size("n_inner"),
        "ropes": (None,),
        "learned_positions": True,
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_epsilon"),
        "gated": False,
        "activation": fields.word("activation_function", ACTIVATIONS, "gelu_new"),
        "score_scales": tuple(scale / (layer + 1) for layer in layers),
        "attention_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    }


def _neox(fields: Fields, sizes: Sizes) -> dict[str, Any]:
    d_head, bias = head_width(fields, sizes), fields.flag("attention_bias", True)
    base = {"rope_theta": fields.values.get("rotary_emb_base", 10_000)}
    base |= {"partial_rotary_factor": fields.values.get("rotary_pct", 0.25)}
    given = {key: value for key, value in fields.values.items() if key != "rope_theta"}
    rules = RopeRules(partial=True, share=0.25)
    rope = read_rope(Fields({**base, **given}, fields.where), sizes["max_positions"], d_head, rules)
    return {
        "n_kv_heads": sizes["n_heads"],
        "d_head": d_head,
        "ropes": (rope,),
        "norm": "layer",
        "norm_eps": fields.number("layer_norm_eps"),
        "gated": False,
        "parallel": fields.flag("use_parallel_residual", True),
        "activation": fields.word("hidden_act", ACTIVATIONS, "gelu"),
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": True,
    }


_GPT2_SIZES = {
    "vocab_size": "vocab_size",
    "n_embd": "d_model",
    "n_layer": "n_layers",
    "n_head": "n_heads",
    "n_positions": "max_positions",
}
CLASSICS: dict[str, Family] = {
    "gpt2": Family(
        "LayerNorm, learned positions, GELU MLP, biases everywhere",
        _gpt2,
        """n_inner layer_norm_epsilon activation_function scale_attn_weights
        scale_attn_by_inverse_layer_idx head_dim""",
        _GPT2_SIZES,
        ignored="""n_ctx reorder_and_upcast_attn summary_activation summary_first_dropout
        summary_proj_to_labels summary_type summary_use_proj""",
        tied=True,
    ),
    "gpt_neox": Family(
        "attention and MLP in parallel, part of each head turned, LayerNorm, GELU",
        _neox,
        """layer_norm_eps use_parallel_residual attention_bias hidden_act rotary_pct
        rotary_emb_base partial_rotary_factor head_dim""",
        ignored="classifier_dropout rope_theta",
    ),
}
