"""The rival: the same weights in HF transformers, used as a careful engineer would use them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.benchmarks.machine import processor
from selfx.models.decoder import Decoder
from selfx.weights.load import LanguageModel


def torch_model(lm: LanguageModel) -> LlamaForCausalLM:
    """The model in torch, float32, its weights copied from selfx's."""
    c = lm.config
    config = LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        head_dim=c.d_head,
        rope_parameters={"rope_type": "default", "rope_theta": c.ropes[0].theta},
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tied,
        max_position_embeddings=c.max_positions,
        eos_token_id=list(lm.eos_ids),
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(_state(lm.model), strict=False)
    return model


def _state(model: Decoder) -> dict[str, torch.Tensor]:
    b = model.blocks
    state = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.final_norm.w}
    tensors = {name: _tensor(value[...]) for name, value in state.items()}
    norms = {"input_layernorm": b.attn_norm, "post_attention_layernorm": b.mlp_norm}
    maps = {f"self_attn.{n}_proj": getattr(b, n) for n in "qkvo"}
    maps |= {f"mlp.{n}_proj": getattr(b, n) for n in ("gate", "up", "down")}
    for layer in range(model.config.n_layers):
        stem = f"model.layers.{layer}"
        for name, norm in norms.items():
            tensors[f"{stem}.{name}.weight"] = _tensor(norm.w[...][layer])
        for name, linear in maps.items():
            tensors[f"{stem}.{name}.weight"] = _tensor(linear.w[...][layer].T)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    return tensors


def _tensor(array: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, copy=True))


def interleaved(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each side, taken in turns after one warm-up each, so that noise hits both."""
    ours(), theirs()
    seconds: dict[str, list[float]] = {"selfx": [], "torch": []}
    for _ in range(rounds):
        for name, run in (("selfx", ours), ("torch", theirs)):
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: dict[str, list[float]], amount: int, unit: str) -> dict[str, Any]:
    """Rates, and the median over rounds of the ratio of the two sides."""
    ratios = [t / s for s, t in zip(seconds["selfx"], seconds["torch"], strict=True)]
    return {
        f"selfx {unit}/s": round(amount / statistics.median(seconds["selfx"]), 2),
        f"torch {unit}/s": round(amount / statistics.median(seconds["torch"]), 2),
        "times as fast": round(statistics.median(ratios), 2),
        "rounds": [round(r, 2) for r in ratios],
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": f"jax {jax.__version__}, torch {torch.__version__}",
    }
