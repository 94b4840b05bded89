"""Where the time goes: the operations of one training step or one generation, by what they compute.

python -m experiments.benchmarks.profiling --what training --data traces/patching
python -m experiments.benchmarks.profiling --what generation
"""

from __future__ import annotations

import collections
import dataclasses
import gzip
import json
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import selfx
from experiments.command import command
from selfx.explainer.batches import Plan
from selfx.explainer.injection import Way
from selfx.explainer.optimization import Optimization
from selfx.explainer.prompts import make_prompter
from selfx.explainer.step import Frozen, How, init_state, make_step
from selfx.explainer.trained import begin
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.models import generate as generating

OP = re.compile(r'%([\w.\-]+) = (\S+?)\{[^\n]*?op_name="([^"]*)"')
"""A compiled program's line: the operation's name, its shape, and the call in our code."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What to look at."""

    what: Literal["training", "generation"] = "training"
    data: Path | None = None
    """A trace folder, for training."""
    model: str = "smollm2-135m-instruct"
    batch_size: int = 16
    new_tokens: int = 24
    most: int = 12
    """Operations to show."""
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """Something compiled, and a function that runs it once to the end."""

    text: str
    run: Callable[[], Any]


def training(config: Config, lm: selfx.LanguageModel) -> Program:
    """One step on the first batch of the trace."""
    if config.data is None:
        raise SystemExit("--what training needs --data, a trace folder")
    prompter = make_prompter(lm.tokenizer, lm.eos_ids, "plain")
    examples, d = selfx.load_examples(config.data, "train"), lm.config.d_model
    plan = Plan(examples, prompter, width=d, batch_size=config.batch_size, seed=0)
    optimizer, frozen = Optimization().build(1000), Frozen(lm.model)
    held = [init_state(begin(lm.config, lm.model, Training(), lm.config.n_layers, d), optimizer)]
    batch = plan.batch(0)
    step = make_step(optimizer, How(Way("marker", 5.0))).lower(held[0], frozen, batch).compile()

    def run() -> None:
        held[0], metrics = step(held[0], frozen, batch)
        jax.block_until_ready(metrics)

    return Program(step.as_text(), run)


def generation(config: Config, lm: selfx.LanguageModel) -> Program:
    """A batch of random prompts of 80 tokens, the layers apart."""
    shape = (config.batch_size, 80)
    tokens = np.random.default_rng(0).integers(20, lm.config.vocab_size, shape)
    layers = selfx.apart(lm.model)
    more = (np.ones(shape, bool), None, None, np.array([-1], np.int32), np.float32(0))
    more = (*more, np.float32(1), jax.random.key(0), layers)
    compiled = generating._generate.lower(
        lm.model, tokens.astype(np.int32), *more, max_new_tokens=config.new_tokens, sampled=False
    ).compile()

    def run() -> None:
        compiled(lm.model, tokens.astype(np.int32), *more).tokens.block_until_ready()

    return Program(compiled.as_text(), run)


def measure(program: Program, most: int) -> dict[str, Any]:
    """Seconds of wall clock, of the program and of the kernel; milliseconds by operation."""
    program.run()
    program.run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
            program.run()
            wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
        events = _events(Path(folder))
    described = {
        name: f"{call.split('/')[-1]} {shape}" for name, shape, call in OP.findall(program.text)
    }
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        name = event["args"]["hlo_op"]
        spent[described.get(name, name)] += event["dur"] / 1e3
    return {
        "wall s": round(wall, 2),
        "user s": round(after.ru_utime - before.ru_utime, 2),
        "kernel s": round(after.ru_stime - before.ru_stime, 2),
        "operations ms": {name: round(ms) for name, ms in spent.most_common(most)},
        "all operations ms": round(sum(spent.values())),
    }


def _events(folder: Path) -> list[dict[str, Any]]:
    """The operations that a profile recorded."""
    (file,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return [event for event in events if "hlo_op" in event.get("args", {}) and "dur" in event]


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    lm = selfx.load(config.model)
    program = {"training": training, "generation": generation}[config.what](config, lm)
    figures = measure(program, config.most)
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
