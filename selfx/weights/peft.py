"""LoRA adapters on disk in the layout of the PEFT library, so that HF tools can load them.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; a map's matrices are
`base_model.model.model.layers.{layer}.{module}.lora_A.weight` `[r, in]` and `lora_B` `[out, r]`.
Modules are named as Llama's. Families whose own files name or fuse them otherwise (GPT-2, GPT-NeoX,
Phi-3) keep the same folder, which selfx reads back and other tools refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from selfx.errors import SelfxError
from selfx.files import atomic, read_json, write_text
from selfx.weights.tables import PEFT_MODULES

PREFIX = "base_model.model.model.layers"
_KEY = re.compile(rf"{re.escape(PREFIX)}\.(\d+)\.(.+)\.lora_([AB])\.weight")
_VARIANTS = (
    "use_rslora",
    "use_dora",
    "alora_invocation_tokens",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
)
"""Settings of PEFT that change what the matrices mean."""

Matrices = Mapping[str, tuple[Any, Any]]


def save_adapter(path: Path, adapters: Matrices, *, alpha: float, base: str) -> None:
    """Writes adapters `{map: (a [l, in, r], b [l, r, out])}` as a PEFT folder.

    Raises:
      SelfxError: the disk is full or the folder cannot be written.
    """
    tensors = {}
    for name, (a, b) in adapters.items():
        for layer in range(a.shape[0]):
            stem = f"{PREFIX}.{layer}.{PEFT_MODULES[name]}"
            tensors[f"{stem}.lora_A.weight"] = np.ascontiguousarray(np.asarray(a[layer]).T)
            tensors[f"{stem}.lora_B.weight"] = np.ascontiguousarray(np.asarray(b[layer]).T)
    rank = next(iter(adapters.values()))[0].shape[-1]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(PEFT_MODULES[name].split(".")[-1] for name in adapters),
        "inference_mode": True,
    }
    with atomic(path / "adapter_model.safetensors") as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    write_text(path / "adapter_config.json", json.dumps(config, indent=2) + "\n")


def load_adapter(path: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """`({map: (a [l, in, r], b [l, r, out])}, alpha / r)` from a PEFT folder.

    Raises:
      SelfxError: a missing or broken file, a map that is not ours, layers that do not add up, a
        variant of LoRA that is not ours.
    """
    rank, alpha = _rank_alpha(path / "adapter_config.json")
    file = path / "adapter_model.safetensors"
    found: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    names = {module: name for name, module in PEFT_MODULES.items()}
    try:
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                match = _KEY.fullmatch(key)
                if match is None or match[2] not in names:
                    raise SelfxError(f"{file}: tensor {key!r}", expected="LoRA on known maps only")
                found.setdefault((names[match[2]], match[3]), {})[int(match[1])] = (
                    tensors.get_tensor(key).T
                )
    except (SafetensorError, OSError) as error:
        raise SelfxError(f"{file} cannot be read: {error}", hint="train it again") from error
    if not found:
        raise SelfxError(f"{file} holds no tensor", expected="LoRA matrices", hint="train it again")
    stacked = {key: _stack(file, key, layers) for key, layers in found.items()}
    pairs = {}
    for name in sorted({name for name, _ in stacked}):
        a, b = stacked.get((name, "A")), stacked.get((name, "B"))
        if a is None or b is None or not a.shape[2] == b.shape[1] == rank or len(a) != len(b):
            shapes = [None if each is None else each.shape for each in (a, b)]
            raise SelfxError(
                f"{file}: lora_A and lora_B of {name!r} have shapes {shapes}",
                expected=f"both, with as many layers and rank {rank}",
            )
        pairs[name] = a, b
    return pairs, alpha / rank


def _rank_alpha(file: Path) -> tuple[int, float]:
    """What `adapter_config.json` says of the rank and of alpha; anything else must be off."""
    config = read_json(file, hint="a folder that `selfx train` wrote")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        others = [key for key in _VARIANTS if config.get(key)]
        others += ["bias"] if config.get("bias", "none") != "none" else []
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SelfxError(f"{file}: {error} is missing or malformed", expected="LoRA's") from error
    if rank < 1 or others:
        raise SelfxError(
            f"{file}: {', '.join(others) or f'rank {rank}'}",
            expected="plain LoRA of rank 1 or more, one rank and alpha for all maps",
        )
    return rank, alpha


def _stack(file: Path, key: tuple[str, str], layers: dict[int, np.ndarray]) -> np.ndarray:
    if sorted(layers) != list(range(len(layers))):
        raise SelfxError(f"{file}: layers {sorted(layers)} of {key[0]}", expected="0, 1, 2, ...")
    shapes = {matrix.shape for matrix in layers.values()}
    if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        raise SelfxError(f"{file}: {key[0]} has shapes {sorted(shapes)}", expected="one, [in, out]")
    return np.stack([layers[layer] for layer in range(len(layers))])
