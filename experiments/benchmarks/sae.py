"""Tokens a second in training TopK SAEs: selfx against torch, the same activations and start.

    python -m experiments.benchmarks.sae --out experiments/benchmarks/sae.json

Two torch trainers, one of dense and one of sparse products (`torch_sae.py`), take turns with selfx;
the ratio that counts is to the faster. Both sides end with the same FVU, or the figures say so.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro

from experiments.benchmarks.reference import summary
from experiments.benchmarks.torch_sae import TorchSae
from selfx.features.training.grid import make_step, measure
from selfx.features.training.objective import start
from selfx.features.training.optimise import first_state
from selfx.features.training.settings import SaeTraining
from selfx.features.training.stream import Buffer, stream_arrays
from selfx.files import write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    d: int = 576
    n: int = 4608
    k: int = 32
    ks: tuple[int, ...] = ()
    """Several at once; selfx trains them in one step, torch one after the other."""
    batch_size: int = 2048
    steps: int = 8
    """A round."""
    rounds: int = 5
    seed: int = 0
    out: Path | None = None


def activations(config: Config) -> np.ndarray:
    """Sums of few directions out of many, and noise: `[tokens, d]`."""
    rng = np.random.default_rng(config.seed)
    rows = rng.standard_normal((config.n, config.d)).astype(np.float32) / config.d**0.5
    x = 0.1 * rng.standard_normal((8 * config.batch_size, config.d)).astype(np.float32)
    for _ in range(config.k):
        x += (
            rng.exponential(size=(len(x), 1)).astype(np.float32)
            * rows[rng.integers(0, config.n, len(x))]
        )
    return x


class Ours:
    """selfx's trainer, its activations in a buffer."""

    def __init__(self, config: Config, x: jax.Array, ks: tuple[int, ...]):
        training = SaeTraining(widths=(config.n,), ks=ks, batch_size=config.batch_size)
        self.members, self.config = training.members(), config
        batches = stream_arrays(x[None], size=x.shape[0], batch=config.batch_size)
        self.state = first_state(batches, training, measure(x[None], x[None]))
        self.buffer = Buffer(x[None], None)
        self.advance = make_step(training.objective, max(ks), 10**9, lambda step: 1.0)
        self.places = jnp.arange(config.batch_size)

    def __call__(self) -> list[float]:
        """A round of steps; each dictionary's FVU at the last."""
        for step in range(self.config.steps):
            places = self.places + step * self.config.batch_size % self.buffer.inputs.shape[1]
            self.state, metrics = self.advance(self.state, self.members, self.buffer, places)
        seen = metrics[str(self.config.n)]
        return np.ravel(jax.device_get(seen["error"] / seen["variance"])).tolist()


class Theirs:
    """The rival's, from the same start."""

    def __init__(self, config: Config, x: np.ndarray, ks: tuple[int, ...], sparse: bool):
        size = config.batch_size
        weights = start(
            jax.random.fold_in(jax.random.key(0), 0), config.n, config.d, config.d, True
        )
        enc = torch.from_numpy(np.array(weights.enc))
        scales = measure(jnp.asarray(x)[None], jnp.asarray(x)[None])
        normed = (x - np.asarray(scales.centre[0])) / float(scales.scale[0])
        self.x, self.config = torch.from_numpy(normed), config
        self.saes = [TorchSae(enc, k, size, 1e-3, sparse) for k in ks]

    def __call__(self) -> list[float]:
        """A round of steps; each dictionary's FVU at the last."""
        size = self.config.batch_size
        for step in range(self.config.steps):
            at = step * size % len(self.x)
            seen = [sae.step(self.x[at : at + size], 1e-3) for sae in self.saes]
        return [float(error / variance) for error, variance in seen]


def turns(
    sides: dict[str, Callable[[], list[float]]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each side taken in turns after a warm-up, and the FVU it ended with."""
    ended = {name: run() for name, run in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            began = time.perf_counter()
            ended[name] = run()
            seconds[name].append(time.perf_counter() - began)
    return seconds, ended


def main(config: Config) -> dict[str, Any]:
    """Prints and keeps the figures."""
    warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta")
    x, ks = activations(config), config.ks or (config.k,)
    sides = {
        "selfx": Ours(config, jnp.asarray(x), ks),
        "torch dense": Theirs(config, x, ks, sparse=False),
        "torch sparse": Theirs(config, x, ks, sparse=True),
    }
    seconds, ended = turns(sides, config.rounds)
    rivals = {name: statistics.median(seconds[name]) for name in sides if name != "selfx"}
    fastest = min(rivals, key=lambda name: rivals[name])
    tokens = config.steps * config.batch_size
    both = {"selfx": seconds["selfx"], "torch": seconds[fastest]}
    figures = {
        "shape": {"d": config.d, "n": config.n, "k": list(ks), "batch": config.batch_size},
        "rival": fastest,
        **summary(both, tokens, "tokens"),
        "seconds a round": {name: round(statistics.median(s), 3) for name, s in seconds.items()},
        "fvu": {name: [round(f, 4) for f in each] for name, each in ended.items()},
    }
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)
    return figures


if __name__ == "__main__":
    main(tyro.cli(Config))
