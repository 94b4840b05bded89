"""The `config.json` that declares an architecture: `selfx.models.zoo` read backwards.

Every key is written that the family's row reads, in the spelling of transformers 5. What comes out
is read again before it is believed, so an architecture that no file of its family can declare is
refused, never declared wrongly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from selfx.errors import SelfxError
from selfx.models.config import Config, Rope, RopeScaling
from selfx.models.zoo import FAMILIES, check_family, config_from_hf

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mimo": "MiMoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
}
"""`{family: its class in transformers}`."""

_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}
_ROPE_BY_KIND = ("gemma3_text", "olmo3")
_ROPE_IN_PART = ("phi3", "gpt_neox")
_ORIGINAL = "original_max_position_embeddings"
_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""Written where nothing is known: transformers would put in those of the first of the family."""


def config_to_hf(config: Config) -> dict[str, Any]:
    """The object of a `config.json` that declares `config`, without the weights' dtype.

    Raises:
      SelfxError: the family is unknown, or has no words for some field's value; it is named.
    """
    check_family(config.family, "the config")
    family = FAMILIES[config.family]
    known = {**_plain(config), **_windows(config), **_scales(config), **_experts(config)}
    declared = {
        "architectures": [_CLASSES[config.family]],
        "model_type": config.family,
        "tie_word_embeddings": config.tied,
        **{key: getattr(config, ours) for key, ours in family.sizes.items()},
        **{key: known[key] for key in family.keys.split() if key in known},
        **_ropes(config),
        **_TOKENS,
    }
    _check(config, declared)
    return declared


def _check(config: Config, declared: dict[str, Any]) -> None:
    """Nothing, if what is declared is read as `config`, its patterns over layers written out."""
    wanted, found = (_written_out(each) for each in (config, config_from_hf(declared)))
    wrong = [
        f"{field.name} = {getattr(wanted, field.name)!r}"
        for field in dataclasses.fields(Config)
        if getattr(wanted, field.name) != getattr(found, field.name)
    ]
    if wrong:
        raise SelfxError(
            f"no config.json of the family {config.family!r} can say {', '.join(wrong)}",
            expected="what models of that family have",
            hint="give the config another family",
        )


def _written_out(config: Config) -> Config:
    """The same with an entry for every layer in what differs from layer to layer."""
    scales = config.score_scales
    return dataclasses.replace(
        config,
        ropes=_each(config.ropes, config),
        windows=_each(config.windows, config),
        score_scales=None if scales is None else _each(scales, config),
    )


def _each(pattern: tuple[Any, ...], config: Config) -> tuple[Any, ...]:
    return tuple(pattern[layer % len(pattern)] for layer in range(config.n_layers))


def _plain(config: Config) -> dict[str, Any]:
    """What is one field here and one there, under every name that a family has for it."""
    activation = _ACTIVATIONS.get(config.activation, config.activation)
    names = {
        config.norm_eps: ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
        activation: ("hidden_act", "hidden_activation", "activation_function"),
    }
    width = {} if config.norm == "layer" else {"head_dim": config.d_head}  # GPTs know of none
    return {
        **{name: value for value, each in names.items() for name in each},
        **width,
        "num_key_value_heads": config.n_kv_heads,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "n_inner": config.d_ff,
        "use_parallel_residual": config.parallel,
        "attn_logit_softcapping": config.score_cap,
        "final_logit_softcapping": config.logit_cap,
    }


def _windows(config: Config) -> dict[str, Any]:
    """Which layers see a window, and which turn nothing."""
    windows = _each(config.windows, config)
    sizes = [size for size in windows if size is not None]
    kinds = ["full_attention" if size is None else "sliding_attention" for size in windows]
    first = kinds.index("sliding_attention") if sizes else config.n_layers
    return {
        "sliding_window": sizes[0] if sizes else None,
        "use_sliding_window": bool(sizes),
        "max_window_layers": first,
        **({} if config.experts else {"layer_types": kinds}),  # Qwen3's mixtures have one kind
        "no_rope_layers": [int(rope is not None) for rope in _each(config.ropes, config)],
    }


def _scales(config: Config) -> dict[str, Any]:
    """What scores are multiplied by, as Gemma declares it, and as GPT-2 does."""
    if config.score_scales is None:
        return {}
    scale = config.score_scales[0]
    whole = round(scale**-2)
    return {
        "query_pre_attn_scalar": whole if whole and whole**-0.5 == scale else scale**-2,
        "scale_attn_weights": scale != 1,
        "scale_attn_by_inverse_layer_idx": len(set(config.score_scales)) > 1,
    }


def _experts(config: Config) -> dict[str, Any]:
    if config.experts is None:
        return {}
    return {
        "num_experts": config.experts.n_experts,
        "num_experts_per_tok": config.experts.n_chosen,
        "norm_topk_prob": config.experts.normalized,
        "moe_intermediate_size": config.d_ff,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _ropes(config: Config) -> dict[str, Any]:
    """The rotary embeddings: one, or one for each kind of layer."""
    ropes, windows = _each(config.ropes, config), _each(config.windows, config)
    turning = [rope for rope in ropes if rope is not None]
    if not turning:
        return {}
    if config.family not in _ROPE_BY_KIND:
        share = {"partial_rotary_factor": turning[0].share}
        parameters = {**_rope(turning[0]), **(share if config.family in _ROPE_IN_PART else {})}
        longer = {_ORIGINAL: parameters[_ORIGINAL]} if "long_factor" in parameters else {}
        return {**longer, "rope_parameters": parameters}
    pairs = list(zip(ropes, windows, strict=True))
    far = next((rope for rope, size in pairs if rope and size is None), turning[0])
    near = next((rope for rope, size in pairs if rope and size is not None), turning[0])
    return {"rope_parameters": {"full_attention": _rope(far), "sliding_attention": _rope(near)}}


def _rope(rope: Rope) -> dict[str, Any]:
    scaling = {"rope_type": "default"} if rope.scaling is None else _scaling(rope.scaling)
    return {"rope_theta": rope.theta, **scaling}


def _scaling(scaling: RopeScaling) -> dict[str, Any]:
    common: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("linear", "dynamic"):
        return common
    common[_ORIGINAL] = scaling.original_max_positions
    if scaling.kind == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        return {**common, "low_freq_factor": low, "high_freq_factor": high}
    common["attention_factor"] = scaling.attention_factor
    if scaling.kind == "longrope":
        short, long = list(scaling.short), list(scaling.long)
        return {**common, "short_factor": short, "long_factor": long}
    turns = {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    return {**common, **turns, "truncate": scaling.truncate}
