"""Families by name, and how a Hugging Face `config.json` declares their architecture.

A number that is needed and missing raises, and so does a field that would change the computation
and is not honoured here: the model that runs must be the model that was trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from selfx.errors import SelfxError
from selfx.models.config import Config, RopeScaling
from selfx.models.fields import Fields

FAMILIES: dict[str, str] = {"llama": "RMSNorm, rotary positions, grouped queries, gated SiLU MLP"}
"""`{family: what it is made of}`; named as HF's `model_type` and GGUF's architecture are."""

_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_positions",
}

_READ = frozenset(
    [
        "attention_bias",
        "head_dim",
        "mlp_bias",
        "model_type",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tie_word_embeddings",
        "original_max_position_embeddings",
    ]
) | frozenset(_NAMES)

_ORIGIN = """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _name_or_path architectures attention_dropout auto_map dtype id2label initializer_range
    is_llama_config label2id license name_or_path pad_token_id bos_token_id eos_token_id
    sep_token_id unk_token_id
    decoder_start_token_id problem_type task_specific_params finetuning_task tokenizer_class
    torch_dtype torchscript transformers.js_config transformers_version unsloth_fixed
    unsloth_version use_bfloat16 use_cache"""
"""Keys about where a model comes from, and how it was trained and stored."""

_GENERATION = """
    bad_words_ids begin_suppress_tokens chunk_size_feed_forward diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores prefix remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p"""
"""Keys about generation and its outputs, which older files keep beside the architecture."""

_HARMLESS = frozenset(f"{_ORIGIN} {_GENERATION}".split())

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("swish", "silu"),
    "pretraining_tp": (None, 1),
    "partial_rotary_factor": (None, 1),
    "rope_interleaved": (None, False),
    "sliding_window": (None,),
    "use_sliding_window": (None, False),
    "quantization_config": (None,),
    "is_encoder_decoder": (None, False),
    "is_decoder": (None, False, True),
    "add_cross_attention": (None, False),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "tf_legacy_loss": (None, False),
}
"""Keys that change nothing at these values, and would at any other."""

_SCALING_KEYS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        [
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ]
    ),
}

_ORIGINAL = "original_max_position_embeddings"
_ROPE_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", _ORIGINAL})


def config_from_hf(source: Mapping[str, Any]) -> Config:
    """The architecture that a Hugging Face `config.json` declares.

    Raises:
      SelfxError: another family, a missing number, or a field that is not honoured.
    """
    check_family(source.get("model_type"), "config.json")
    fields = Fields(source, "config.json")
    fields.refuse_unknown(_READ | _HARMLESS | _NEUTRAL.keys())
    fields.refuse_values(_NEUTRAL)
    sizes = {name: fields.size(key) for key, name in _NAMES.items()}
    theta, scaling = _rope(fields, sizes["max_positions"])
    return checked(
        Config(
            family=source["model_type"],
            **sizes,
            n_kv_heads=fields.size("num_key_value_heads", sizes["n_heads"]),
            d_head=fields.size("head_dim", _width(sizes["d_model"], sizes["n_heads"])),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=fields.number("rms_norm_eps"),
            tied=fields.flag("tie_word_embeddings", False),
            attention_bias=fields.flag("attention_bias", False),
            mlp_bias=fields.flag("mlp_bias", False),
        )
    )


def check_family(name: Any, where: str) -> None:
    """Nothing, if the family is one of `FAMILIES`.

    Raises:
      SelfxError: it is not, or none is named.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise SelfxError(
            f"{where} declares the architecture {name!r}",
            expected=f"one of {', '.join(FAMILIES)}",
            hint="choose a model in the Llama layout, such as smollm2-135m-instruct",
        )


def checked(config: Config) -> Config:
    """`config`, its sizes found to fit each other.

    Raises:
      SelfxError: they do not.
    """
    if config.n_heads % config.n_kv_heads:
        raise SelfxError(
            f"{config.n_heads} query heads over {config.n_kv_heads} key/value heads",
            expected="a whole number of query heads to each key/value head",
        )
    if config.d_head % 2:
        raise SelfxError(
            f"heads {config.d_head} wide", expected="an even width, for the rotary pairs"
        )
    return config


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """What YaRN scales cosines and sines by if a file does not say (arXiv 2309.00071, eq. 22)."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1)


def _width(d_model: int, n_heads: int) -> int:
    """The width of a head where the file gives none."""
    if d_model % n_heads:
        raise SelfxError(
            f"config.json has hidden_size {d_model} over {n_heads} heads, and no head_dim",
            expected="a multiple of num_attention_heads, or head_dim",
        )
    return d_model // n_heads


def _rope(fields: Fields, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`."""
    source = fields.values
    if source.get("rope_scaling") and source.get("rope_parameters"):
        raise SelfxError("config.json has both rope_scaling and rope_parameters", expected="one")
    declared = source.get("rope_scaling") or source.get("rope_parameters") or {}
    if not isinstance(declared, Mapping):
        raise SelfxError(f"config.json has the rope {declared!r}", expected="an object")
    rope = Fields({"rope_theta": source.get("rope_theta"), **declared}, "the rope of config.json")
    kind = declared.get("rope_type") or declared.get("type") or "default"
    if not isinstance(kind, str) or kind not in _SCALING_KEYS:
        known = ", ".join(_SCALING_KEYS)
        raise SelfxError(f"config.json scales its rope by {kind!r}", expected=f"one of {known}")
    rope.refuse_unknown(_SCALING_KEYS[kind] | _ROPE_KEYS)
    rope.refuse_values({"partial_rotary_factor": (None, 1)})
    theta = rope.number("rope_theta")
    if kind == "default":
        return theta, None
    original = fields.size(_ORIGINAL, rope.size(_ORIGINAL, max_positions))
    return theta, _scaling(kind, rope, original, max_positions)


def _scaling(kind: Any, rope: Fields, original: int, max_positions: int) -> RopeScaling:
    if kind in ("linear", "dynamic") and original != max_positions:
        raise SelfxError(
            f"config.json has {_ORIGINAL} {original} with {kind} scaling",
            expected=f"max_position_embeddings, {max_positions}: {kind} scaling reads no other",
        )
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise SelfxError(f"llama3 rope with low_freq_factor {low}", expected=f"below {high}")
        return RopeScaling(kind, rope.number("factor"), original, low, high)
    if kind != "yarn":
        return RopeScaling(kind, rope.number("factor"), original)
    factor = rope.number("factor", max_positions / original)
    given = [key for key in ("mscale", "mscale_all_dim") if rope.values.get(key)]
    weights = [rope.number(key) for key in given] if len(given) == 2 else []
    return RopeScaling(
        kind,
        factor,
        original,
        beta_fast=rope.number("beta_fast", 32),
        beta_slow=rope.number("beta_slow", 1),
        attention_factor=rope.number("attention_factor", yarn_attention_factor(factor, *weights)),
        truncate=rope.flag("truncate", True),
    )
