"""Training, examples a second: batches of like length against two ways of padding them.

    python -m experiments.benchmarks.padding --data traces/reading traces/patching traces/ablation

A mixture of tasks whose questions differ in length is laid out three times:

    buckets   selfx's: rows sorted by length within a window of batches, which are then shuffled
    longest   random order, each batch padded to its own longest row
    fixed     random order, each batch padded to the longest row of all

A step's time depends on its shape alone. So each shape that any layout needs is compiled and timed
by real steps, all of them in turn, round after round; an epoch's time is the sum over its steps.
Widths are rounded up alike in all three, which spares the second a program for every length.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import selfx
from experiments.benchmarks.machine import processor
from experiments.command import command
from selfx.explainer.batches import Batch, Plan, Row
from selfx.explainer.injection import Way
from selfx.explainer.optimization import Optimization
from selfx.explainer.prompts import make_prompter
from selfx.explainer.step import Frozen, How, init_state, make_step
from selfx.explainer.trained import begin
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.interventions.batching import bucket, chunks
from selfx.tasks.example import Example

Shape = tuple[int, int]
"""Tokens of a row, and of its answer."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    data: tuple[Path, ...]
    """Trace folders of one target."""
    model: str = "smollm2-135m-instruct"
    limit: int = 1000
    """Examples of each trace."""
    batch_size: int = 16
    rank: int = 16
    epochs: int = 4
    """Epochs to lay out."""
    rounds: int = 2
    seed: int = 0
    out: Path | None = None


def mixture(config: Config) -> list[Example]:
    """The first examples of every trace, as many of each."""
    parts = [selfx.load_examples(folder, "train")[: config.limit] for folder in config.data]
    least = min(map(len, parts))
    return [example for part in parts for example in part[:least]]


def layouts(config: Config, plan: Plan) -> dict[str, list[Shape]]:
    """The shape of every step of the epochs, under each layout."""
    rng = np.random.default_rng(config.seed)
    steps = range(config.epochs * plan.steps_per_epoch)
    ours = [plan.rows_of(step) for step in steps]
    rows = [row for batch in ours for row in batch]
    mixed = [rows[i] for i in rng.permutation(len(rows))]
    random = [*chunks(mixed, config.batch_size)]
    largest = _shape(rows)
    return {
        "buckets": [_shape(batch) for batch in ours],
        "longest": [_shape(batch) for batch in random],
        "fixed": [largest] * len(random),
    }


def _shape(rows: Sequence[Row]) -> Shape:
    return bucket(max(map(len, rows))), bucket(max(len(row.answer) for row in rows))


def stepper(config: Config, lm: selfx.LanguageModel, plan: Plan) -> Callable[[Shape], float]:
    """A function: the seconds of one training step of that shape."""
    settings = Training(rank=config.rank, alpha=config.rank)
    trained = begin(lm.config, lm.model, settings, lm.config.n_layers, lm.config.d_model)
    optimizer, frozen = Optimization().build(1000), Frozen(lm.model)
    step, held = make_step(optimizer, How(Way("marker"))), [init_state(trained, optimizer)]
    batch = plan.batch(0)

    def run(shape: Shape) -> float:
        sized = resized(batch, shape)
        began = time.perf_counter()
        held[0], metrics = step(held[0], frozen, sized)
        jax.block_until_ready((held[0], metrics))
        return time.perf_counter() - began

    return run


def resized(batch: Batch, shape: Shape) -> Batch:
    """The batch cut or padded to a shape; for its time alone, what is in it does not matter."""
    tokens, answers = shape

    def fit(x: np.ndarray, width: int) -> np.ndarray:
        return np.pad(x[:, :width], ((0, 0), (0, max(width - x.shape[1], 0))))

    return dataclasses.replace(
        batch,
        tokens=fit(batch.tokens, tokens),
        mask=np.ones((len(batch.tokens), tokens), bool),
        ask=fit(batch.ask, answers),
        answers=fit(batch.answers, answers),
        weights=fit(batch.weights, answers),
    )


def compare(config: Config, examples: Sequence[Example], lm: selfx.LanguageModel) -> dict[str, Any]:
    """The figures."""
    prompter = make_prompter(lm.tokenizer, lm.eos_ids, "plain")
    width, size = lm.config.d_model, config.batch_size
    plan = Plan(examples, prompter, width=width, batch_size=size, seed=config.seed)
    laid = {name: collections.Counter(some) for name, some in layouts(config, plan).items()}
    shapes = sorted({shape for counts in laid.values() for shape in counts})
    run = stepper(config, lm, plan)
    compiling = {shape: run(shape) for shape in shapes}
    rounds = [{shape: run(shape) for shape in shapes} for _ in range(config.rounds)]
    seconds = {
        name: [sum(n * times[shape] for shape, n in counts.items()) for times in rounds]
        for name, counts in laid.items()
    }
    amount = config.epochs * len(examples)
    real = sum(len(row) for step in range(plan.steps_per_epoch) for row in plan.rows_of(step))
    return {
        "examples": len(examples),
        "traces": len(config.data),
        "real tokens an example": round(real / len(examples), 1),
        **{name: _row(laid[name], seconds[name], amount, size) for name in laid},
        **{f"times as fast as {name}": _ratio(seconds, name) for name in ("longest", "fixed")},
        "seconds to compile all": round(sum(compiling.values())),
        "machine": processor(),
        "jax": jax.__version__,
    }


def _row(
    counts: collections.Counter[Shape], seconds: list[float], amount: int, size: int
) -> dict[str, Any]:
    padded = sum(n * tokens for (tokens, _), n in counts.items()) * size
    return {
        "examples/s": round(amount / statistics.median(seconds), 2),
        "tokens an example": round(padded / amount, 1),
        "programs": len(counts),
    }


def _ratio(seconds: dict[str, list[float]], rival: str) -> list[float]:
    """The rival's time over that of the buckets, round by round."""
    return [round(r / b, 2) for r, b in zip(seconds[rival], seconds["buckets"], strict=True)]


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    figures = compare(config, mixture(config), selfx.load(config.model))
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
