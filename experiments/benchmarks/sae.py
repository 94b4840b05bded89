"""Tokens a second in training TopK SAEs: selfx against torch, the same activations and start.

    python -m experiments.benchmarks.sae --out experiments/benchmarks/sae.json

Two torch trainers, one of dense and one of sparse products (`torch_sae.py`), each on one thread and
on all (where others use the machine too, one is often the faster), take turns with selfx; the ratio
that counts is to the fastest. All sides end with the same FVU, or the figures say so.
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

from experiments.benchmarks.reference import summary
from experiments.benchmarks.torch_sae import TorchSae
from experiments.command import command
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

    def __init__(
        self, config: Config, x: np.ndarray, ks: tuple[int, ...], sparse: bool, threads: int
    ):
        size, self.threads = config.batch_size, threads
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
        size, before = self.config.batch_size, torch.get_num_threads()
        torch.set_num_threads(self.threads)
        for step in range(self.config.steps):
            at = step * size % len(self.x)
            seen = [sae.step(self.x[at : at + size], 1e-3) for sae in self.saes]
        torch.set_num_threads(before)
        return [float(error / variance) for error, variance in seen]


@dataclasses.dataclass
class Side:
    """One side, its rounds so far.

    Attributes:
      run: a round.
      seconds: by the clock, of each.
      processor: the same of the processor, all threads together.
      fvu: each dictionary's at the end of the last.
    """

    run: Callable[[], list[float]]
    seconds: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)
    fvu: list[float] = dataclasses.field(default_factory=list)

    def __call__(self) -> None:
        """A round."""
        began, used = time.perf_counter(), time.process_time()
        self.fvu = self.run()
        self.seconds.append(time.perf_counter() - began)
        self.processor.append(time.process_time() - used)


def take_turns(sides: dict[str, Side], rounds: int) -> None:
    """Rounds of all sides in turns, after a warm-up that is not counted."""
    for side in sides.values():
        side.run()
    for _ in range(rounds):
        for side in sides.values():
            side()


def main(config: Config) -> dict[str, Any]:
    """Prints and keeps the figures."""
    warnings.filterwarnings("ignore", message="Sparse .*")
    x, ks = activations(config), config.ks or (config.k,)
    sides = {"selfx": Side(Ours(config, jnp.asarray(x), ks))}
    for kind in ("dense", "sparse"):
        for threads in sorted({1, torch.get_num_threads()}):
            run = Theirs(config, x, ks, kind == "sparse", threads)
            sides[f"torch {kind}, threads: {threads}"] = Side(run)
    take_turns(sides, config.rounds)
    figures = {
        "shape": {"d": config.d, "n": config.n, "k": list(ks), "batch": config.batch_size},
        **compared(sides, config),
    }
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)
    return figures


def compared(sides: dict[str, Side], config: Config) -> dict[str, Any]:
    """selfx against the fastest, and medians of every side."""
    ours = sides["selfx"]
    rivals = {name: side for name, side in sides.items() if side is not ours}
    fastest = min(rivals, key=lambda name: statistics.median(rivals[name].seconds))
    both = {"selfx": ours.seconds, "torch": rivals[fastest].seconds}
    return {
        "rival": fastest,
        **summary(both, config.steps * config.batch_size, "tokens"),
        "times as fast as": {
            name: round(ratio(ours.seconds, side.seconds), 2) for name, side in rivals.items()
        },
        "seconds a step": {
            name: round(statistics.median(side.seconds) / config.steps, 4)
            for name, side in sides.items()
        },
        "processor seconds a step": {
            name: round(statistics.median(side.processor) / config.steps, 4)
            for name, side in sides.items()
        },
        "fvu": {name: [round(f, 4) for f in side.fvu] for name, side in sides.items()},
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of their seconds to ours."""
    return statistics.median(t / s for s, t in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    command(main, Config)
