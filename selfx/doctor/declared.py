"""What a Hugging Face folder declares, as transformers' own config classes read it; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfx.doctor.named import NamedTensors
from selfx.doctor.raw import RawFolder
from selfx.doctor.spec import Checkpoint, Router, Spec, Turn
from selfx.errors import SelfxError

_EVERY_LAYER_SLIDES = ("mistral", "phi3", "qwen3_moe")
_SOME_SLIDE = ("ministral", "smollm3", "qwen2", "mimo", "qwen3", "gemma2", "gemma3_text", "olmo3")
_NONE_SLIDES = ("llama", "gpt2", "gpt_neox", "olmo2")
_GEMMAS = ("gemma2", "gemma3_text")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "relu": "relu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"),
}


def folder_checkpoint(folder: Path) -> Checkpoint:
    """Architecture and tensors of a folder.

    Raises:
      SelfxError: its family is not one that the doctor knows.
    """
    config, family, whole = _config(folder)
    if family not in (*_EVERY_LAYER_SLIDES, *_SOME_SLIDE, *_NONE_SLIDES):
        raise SelfxError(f"the doctor knows no {family}")
    count = config.num_hidden_layers
    specs = tuple(_spec(config, family, layer, whole is not config) for layer in range(count))
    raw = RawFolder(folder)
    return Checkpoint(specs, NamedTensors(raw, family, specs[0], bool(whole.tie_word_embeddings)))


def hf_config(folder: Path) -> Any:
    """The config object that transformers makes of a folder's `config.json`.

    Raises:
      SelfxError: it cannot.
    """
    from transformers import AutoConfig

    source = json.loads((folder / "config.json").read_text())
    if source.get("model_type") == "mimo":  # remote code: Qwen2's decoder and heads beside it
        left_out = ("model_type", "auto_map")
        given = {key: value for key, value in source.items() if key not in left_out}
        return AutoConfig.for_model("qwen2", **given)
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises whatever an odd field happens to cause
        raise SelfxError(f"transformers cannot read {folder / 'config.json'}: {error}") from error


def _config(folder: Path) -> tuple[Any, str, Any]:
    """The decoder's config, its family, and the config of the whole."""
    whole = hf_config(folder)
    config = getattr(whole, "text_config", None) or whole
    return config, config.model_type, whole


def _spec(config: Any, family: str, layer: int, wrapped: bool) -> Spec:
    heads = config.num_attention_heads
    d_head = config.hidden_size // heads
    if family not in ("gpt2", "gpt_neox"):
        d_head = getattr(config, "head_dim", None) or d_head
    spec = {
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "d_head": d_head,
        "eps": getattr(config, "rms_norm_eps", None),
        "scale": d_head**-0.5,
        "turn": _turn(config, family, layer, d_head),
        "window": _window(config, family, layer),
        "activation": _ACTIVATIONS[getattr(config, "hidden_act", "silu")],
    }
    return Spec(**{**spec, **_special(config, family, layer, wrapped)})


def _special(config: Any, family: str, layer: int, wrapped: bool) -> dict[str, Any]:
    """What a family does unlike Llama."""
    if family in _GEMMAS:
        newer = family == "gemma3_text"  # whose code keeps a cap over scores and never applies it
        return {
            "norm": "plus_one",
            "qk_norm": "head" if newer else None,
            "scale": config.query_pre_attn_scalar**-0.5,
            "cap": None if newer else config.attn_logit_softcapping,
            "logit_cap": None if wrapped else config.final_logit_softcapping,
            "activation": _ACTIVATIONS[config.hidden_activation],
            "embed_scale": config.hidden_size**0.5,
        }
    if family in ("gpt2", "gpt_neox"):
        return _of_2019(config, family, layer)
    if family == "qwen3_moe":
        chosen, normed = config.num_experts_per_tok, config.norm_topk_prob
        return {"qk_norm": "head", "router": Router(config.num_experts, chosen, normed)}
    qk_norm = {"qwen3": "head", "olmo2": "row", "olmo3": "row"}.get(family)
    return {"qk_norm": qk_norm}


def _of_2019(config: Any, family: str, layer: int) -> dict[str, Any]:
    """GPT-2 and GPT-NeoX: LayerNorm, and an MLP without a gate."""
    if family == "gpt_neox":
        eps = config.layer_norm_eps
        parallel = config.use_parallel_residual
        return {"norm": "layer", "eps": eps, "gated": False, "parallel": parallel}
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return {
        "norm": "layer",
        "eps": config.layer_norm_epsilon,
        "gated": False,
        "activation": _ACTIVATIONS[config.activation_function],
        "scale": scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale,
        "first_place": 0,
    }


def _turn(config: Any, family: str, layer: int, d_head: int) -> Turn | None:
    if family == "gpt2" or (family == "smollm3" and not config.no_rope_layers[layer]):
        return None
    found: Mapping[str, Any] = config.rope_parameters
    if "full_attention" in found:
        found = found[config.layer_types[layer]]
    share = 1.0
    if family in ("gpt_neox", "phi3"):
        share = found.get("partial_rotary_factor") or 1.0
    longest = {"max_position_embeddings": config.max_position_embeddings}
    kind = found.get("rope_type", "default")
    return Turn(found["rope_theta"], int(d_head * share), kind, {**found, **longest})


def _window(config: Any, family: str, layer: int) -> int | None:
    if family in _EVERY_LAYER_SLIDES:
        return config.sliding_window
    if family in _SOME_SLIDE and config.layer_types[layer] == "sliding_attention":
        return config.sliding_window
    return None
