"""Loading a model of several files: seconds and peak memory of selfx and of HF transformers.

The model is random, of Llama's architecture, and written file by file into a temporary folder;
each side loads it in a process of its own, in turns. selfx's seconds include the SHA-256 of all
files, which the other side does not compute.

python -m experiments.benchmarks.loading --out experiments/benchmarks/loading.json
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from experiments.command import command
from selfx.files import write_json
from selfx.testing import tiny_tokenizer

Kind = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What to write and how to load it."""

    gigabytes: float = 1.5
    files: int = 6
    stored: Kind = "bfloat16"
    asked: Kind = "float32"
    d_model: int = 2048
    rounds: int = 3
    out: Path | None = None
    child: Literal["", "selfx", "transformers"] = ""
    """Used by the benchmark itself: load `folder` on this side, and print the figures."""
    folder: Path | None = None


def hf_config(config: Config) -> dict[str, Any]:
    """A `config.json` with as many layers as come near to the size asked for."""
    d, vocabulary = config.d_model, 32_000
    d_ff, width = 11 * d // 4, 2 if config.stored == "bfloat16" else 4
    layer = 4 * d * d + 3 * d * d_ff
    rest = config.gigabytes * 1e9 / width - 2 * vocabulary * d
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": d,
        "intermediate_size": d_ff,
        "num_hidden_layers": max(1, round(rest / layer)),
        "num_attention_heads": d // 64,
        "num_key_value_heads": d // 64,
        "head_dim": 64,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": config.stored,
    }


def shapes(about: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the checkpoint, in the order in which it is written."""
    d, f, v = about["hidden_size"], about["intermediate_size"], about["vocab_size"]
    yield "model.embed_tokens.weight", (v, d)
    for layer in range(about["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{stem}.{name}.weight", (d,)
        for name in "qkvo":
            yield f"{stem}.self_attn.{name}_proj.weight", (d, d)
        for name, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
            yield f"{stem}.mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (v, d)


def write(config: Config, folder: Path) -> dict[str, int]:
    """Writes the model; bytes of its largest file, and of its largest layer once loaded."""
    about = hf_config(config)
    (folder / "config.json").write_text(json.dumps(about))
    tiny_tokenizer().save_pretrained(folder)
    dtype = np.dtype(ml_dtypes.bfloat16 if config.stored == "bfloat16" else np.float32)
    noise = (0.02 * np.random.default_rng(0).standard_normal(1 << 20)).astype(dtype)
    every = list(shapes(about))
    total, largest = sum(math.prod(shape) for _, shape in every), 0
    file, sizes = 0, 0
    index: dict[str, str] = {}
    held: dict[str, np.ndarray] = {}
    for position, (name, shape) in enumerate(every):
        held[name] = np.resize(noise, shape)
        sizes += held[name].size
        if sizes >= total * (file + 1) / config.files or position == len(every) - 1:
            path = folder / f"model-{file + 1:05}-of-{config.files:05}.safetensors"
            save_file(held, path, metadata={"format": "pt"})
            index |= dict.fromkeys(held, path.name)
            largest = max(largest, path.stat().st_size)
            file, held = file + 1, {}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    layer = sum(math.prod(shape) for name, shape in every if name.startswith("model.layers.0."))
    return {"largest file": largest, "layer": layer * (4 if config.asked == "float32" else 2)}


def status(field: str) -> int:
    """Bytes, from the kernel's account of this process: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measured(load: Callable[[], Any], size: Callable[[Any], int]) -> dict[str, float]:
    """Seconds, bytes of the weights, and the most memory taken beyond them meanwhile."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began = status("VmRSS"), time.perf_counter()
    model = load()
    seconds, peak = time.perf_counter() - began, status("VmHWM") - before
    return {"seconds": seconds, "weights": size(model), "beyond": peak - size(model)}


def load_selfx(config: Config) -> dict[str, float]:
    """In this process. A tiny matrix product first, for what JAX sets up once."""
    from selfx.weights.load import load as load_model

    AutoTokenizer.from_pretrained(config.folder)  # the first imports torch, where it is installed
    jax.block_until_ready(jax.numpy.ones((8, 8)) @ jax.numpy.ones((8, 8)))

    def load() -> Any:
        return jax.block_until_ready(load_model(str(config.folder), dtype=config.asked).model)

    return measured(load, lambda model: sum(leaf.nbytes for leaf in jax.tree.leaves(model)))


def load_transformers(config: Config) -> dict[str, float]:
    """The same, with every weight read once."""
    import torch
    from transformers import LlamaForCausalLM

    AutoTokenizer.from_pretrained(config.folder)

    def load() -> Any:
        AutoTokenizer.from_pretrained(config.folder)
        dtype = getattr(torch, config.asked)
        model = LlamaForCausalLM.from_pretrained(config.folder, dtype=dtype)
        for parameter in model.parameters():  # its files may be mapped, and not yet read
            parameter.data.view(-1)[::512].sum()  # a page is 4 KiB
        return model

    return measured(load, lambda model: sum(p.nbytes for p in model.parameters()))


def child(config: Config, side: str, folder: Path) -> dict[str, float]:
    """The figures of one side, from a new process."""
    command = [sys.executable, "-m", "experiments.benchmarks.loading", "--child", side]
    command += ["--folder", str(folder), "--asked", config.asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(config: Config) -> dict[str, Any]:
    """Both sides in turns (selfx alone without torch), and the medians."""
    sides = ["selfx", *(["transformers"] if importlib.util.find_spec("torch") else [])]
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        sizes = write(config, Path(name))
        for _ in range(config.rounds):
            for side in sides:
                seen[side].append(child(config, side, Path(name)))
    figures: dict[str, Any] = {
        "stored": config.stored,
        "asked": config.asked,
        "files": config.files,
        **{f"{name} MB": round(size / 1e6) for name, size in sizes.items()},
        "allowed beyond MB": round((1.2 * sizes["largest file"] + sizes["layer"]) / 1e6),
    }
    for side, runs in seen.items():
        figures[side] = {
            "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
            "weights MB": round(runs[0]["weights"] / 1e6),
            "most beyond the weights MB": round(max(run["beyond"] for run in runs) / 1e6),
            "rounds s": [round(run["seconds"], 2) for run in runs],
        }
    if len(sides) > 1:
        pairs = zip(seen["selfx"], seen["transformers"], strict=True)
        ratio = statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
        figures["times as fast"] = round(ratio, 2)
    return {**figures, "cores": os.cpu_count(), "jax": jax.__version__}


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    if config.child:
        load = {"selfx": load_selfx, "transformers": load_transformers}[config.child]
        print(json.dumps(load(config)))
        return
    figures = compare(config)
    table = Table("", "seconds", "weights, MB", "most beyond them, MB")
    for side in ("selfx", "transformers"):
        if side in figures:
            table.add_row(side, *(str(value) for value in list(figures[side].values())[:3]))
    Console().print(table)
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
