"""From the adapters of a decoder to a PEFT folder, which HF and PEFT load beside the base."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from selfx.files import atomic, write_text
from selfx.models.config import Config
from selfx.weights.peft.contents import WEIGHTS
from selfx.weights.peft.names import Module, Modules, layers_of, modules_of
from selfx.weights.peft.read import CONFIG
from selfx.weights.peft.stacked import Matrices, common_scale, rescaled

IN_CODE = {"gpt2": "transformer.h."}
"""`{family: what its layers are called in code}`, where published files leave a part out."""


def save_adapter(
    path: Path,
    adapters: Mapping[str, tuple[Any, Any]],
    *,
    alpha: float,
    base: str,
    config: Config | None = None,
) -> None:
    """Writes adapters `{map: (a [l, in, r], b [l, r, out])}` of scale alpha / r as a PEFT folder.

    Raises:
      SelfxError: the disk is full or the folder cannot be written.
    """
    scaled = {name: Matrices(a, b, alpha / a.shape[-1]) for name, (a, b) in adapters.items()}
    write_adapter(path, scaled, base=base, config=config)


def write_adapter(
    path: Path,
    adapters: Mapping[str, Matrices],
    *,
    base: str,
    config: Config | None = None,
    layers: str = "",
) -> None:
    """Writes adapters as a PEFT folder, in which each module has the rank that its maps need.

    Where a module holds several maps its A is theirs one under the other, and its B holds theirs at
    their own outputs and zeros elsewhere, so that the correction is the same.

    Args:
      path: the folder.
      adapters: `{map: its adapter in every layer}`.
      base: what the adapters are for, as HF loads it.
      config: of the base; without it modules are named as Llama's are.
      layers: what the base's code calls its layers where that is not the family's own way, such as
        `model.language_model.layers.`; only they are then named as targets.

    Raises:
      SelfxError: the disk is full or the folder cannot be written.
    """
    modules = modules_of(config)
    own = IN_CODE.get(config.family if config else "", layers_of(config))
    joined = {
        name: _joined(module, adapters, config)
        for name, module in modules.items()
        if not adapters.keys().isdisjoint(module.maps)
    }
    tensors = _tensors(joined, f"base_model.model.{layers or own}")
    settings = _settings(joined, modules, layers)
    with atomic(path / WEIGHTS) as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    named = {"base_model_name_or_path": base, **settings}
    write_text(path / CONFIG, json.dumps(named, indent=2) + "\n")


def _tensors(joined: Mapping[str, Matrices], layers: str) -> dict[str, np.ndarray]:
    """`{name in the file: matrix}` of every module in every layer."""
    return {
        f"{layers}{layer}.{name}.lora_{side}.weight": np.ascontiguousarray(stacked[layer].T)
        for name, each in joined.items()
        for side, stacked in (("A", each.a), ("B", each.b))
        for layer in range(stacked.shape[0])
    }


def _joined(module: Module, adapters: Mapping[str, Matrices], config: Config | None) -> Matrices:
    """One adapter for a module: that of its only map, or those of its maps in blocks."""
    parts = {name: adapters[name] for name in module.maps if name in adapters}
    scale = common_scale(parts.values())
    parts = {name: _float32(rescaled(each, scale)) for name, each in parts.items()}
    if module.fused is None or config is None:
        return next(iter(parts.values()))
    ranks = [each.a.shape[-1] for each in parts.values()]
    first = next(iter(parts.values())).a
    shared = all(np.array_equal(each.a, first) for each in parts.values())
    starts = [0] * len(ranks) if shared else [sum(ranks[:i]) for i in range(len(ranks))]
    a = first if shared else np.concatenate([each.a for each in parts.values()], axis=-1)
    b = np.zeros((a.shape[0], a.shape[-1], module.shape(config)[1]), np.float32)
    for (name, each), start, rank in zip(parts.items(), starts, ranks, strict=True):
        b[:, start : start + rank, module.columns(name, config)] = each.b
    return Matrices(a, b, scale)


def _float32(adapter: Matrices) -> Matrices:
    a, b = (np.asarray(side, np.float32) for side in (adapter.a, adapter.b))
    return Matrices(a, b, adapter.scale)


def _settings(joined: Mapping[str, Matrices], modules: Modules, layers: str) -> dict[str, Any]:
    """What `adapter_config.json` says; the most frequent rank and alpha are those of all others."""
    names = {name: _shortest(name, modules) for name in joined}
    ranks = {names[name]: each.a.shape[-1] for name, each in joined.items()}
    alphas = {names[name]: each.scale * each.a.shape[-1] for name, each in joined.items()}
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    alpha = collections.Counter(alphas.values()).most_common(1)[0][0]
    inner = "|".join(re.escape(name) for name in sorted(joined))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": rf"{re.escape(layers)}\d+\.({inner})"
        if layers
        else sorted(names.values()),
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "fan_in_fan_out": any(modules[name].conv for name in joined),
        "inference_mode": True,
    }


def _shortest(name: str, modules: Modules) -> str:
    """The last part of a module's name, or all of it where that is another module's too."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in modules) == 1 else name
