"""The ways to read an activation, compared: same questions, same budget, several seeds.

    python -m experiments.explainers
    python -m experiments.explainers --arms add marker --seeds 0 --steps 20   # a quick look

Every arm is trained on questions whose answer only the vector holds, and asked about texts that it
has not met, with the vector, with zeros, with another question's vector, and with the vector
turned. Exact match is teacher-forced: to the token what greedy decoding would say. Work goes to
`runs/explainers` and goes on where it stopped; figures are kept in
`experiments/results/explainers`. Seconds are 0 of a run that was found finished.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

import selfx
from experiments.command import command
from experiments.whole_path import RESULTS
from selfx.evaluation.controls import CONTROLS
from selfx.evaluation.statistics.intervals import intervals
from selfx.evaluation.statistics.rows import Numbers, mean_of
from selfx.explainer.answer import own_vectors
from selfx.explainer.batches import row
from selfx.explainer.fit import fit
from selfx.explainer.job import prepare
from selfx.explainer.mixture import read_mixture
from selfx.explainer.optimization import Optimization
from selfx.explainer.prompts import make_prompter
from selfx.explainer.run import Run
from selfx.explainer.training import Training
from selfx.explainer.watch import Forced
from selfx.files import write_json
from selfx.progress import progress
from selfx.tasks.example import Example
from selfx.tasks.store import load_examples
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel

LORA, READER, FULL = 1e-3, 1e-2, 1e-4
"""Learning rates, each family's own: one rate for all would compare rates, not families."""

ARMS: dict[str, dict[str, Any]] = {
    "embedding": {"injection": "embedding"},
    "marker, 5 lengths": {"injection": "marker", "strength": 5.0},
    "marker, 50 lengths": {"injection": "marker", "strength": 50.0},
    "marker, 5 lengths, centred": {"injection": "marker", "strength": 5.0, "centred": True},
    "add at 1": {"injection": "add", "at": 1},
    "add": {"injection": "add"},
    "overwrite at 0": {"injection": "overwrite", "at": 0},
    "add, rank 4": {"injection": "add", "rank": 4, "alpha": 4.0},
    "add, rank 64": {"injection": "add", "rank": 64, "alpha": 64.0},
    "add, all weights": {"injection": "add", "trains": ("full",)},
    "marker, 50 lengths, scale and bias": {
        "injection": "marker",
        "strength": 50.0,
        "trains": ("scale", "bias"),
    },
    "add at 1, low rank": {
        "injection": "add",
        "at": 1,
        "trains": ("scale", "bias", "low_rank"),
    },
}
"""What differs from LoRA of rank 16 on all maps. The first seven are ways in; `scale and bias` is
the SelfIE adapter (arXiv 2602.10352), `low rank` its larger kind: the model stays as it is."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The comparison."""

    model: str = "smollm2-135m-instruct"
    """Target and explainer alike."""
    limit: int = 3200
    """Questions, train and test together."""
    ask: str = "here,next"
    """Which kinds: the shortest, one for what goes in and one for what comes out."""
    steps: int = 60
    batch_size: int = 32
    test: int = 300
    """Held-out questions."""
    seeds: tuple[int, ...] = (0, 1)
    arms: tuple[str, ...] = tuple(ARMS)
    work: Path = Path("runs/explainers")
    keep: Path = RESULTS / "explainers"


def training_of(config: Config, arm: str, seed: int, examples: int) -> Training:
    """The settings of one arm."""
    own = ARMS[arm]
    rate = FULL if "full" in own.get("trains", ()) else LORA
    held_out = 0.05
    return Training(
        epochs=config.steps * config.batch_size / (examples * (1 - held_out)),
        batch_size=config.batch_size,
        style="plain",
        optimization=Optimization(rate, "linear", 5, reader_rate=READER),
        held_out=held_out,
        evaluate_every=max(config.steps // 4, 1),
        seed=seed,
        **own,
    )


def measured(
    lm: LanguageModel, run: Path, data: Path, training: Training, test: list[Example]
) -> dict[str, np.ndarray]:
    """Whether each answer is right, `[n]`, under every control."""
    job = prepare(lm, read_mixture([data], (), lm.config), training)
    prompter = make_prompter(lm.tokenizer, lm.eos_ids, training.style)
    trained = Run(run).load_result(lm.config)
    groups = [example.group for example in test]
    own, found = own_vectors(test, lm.config.d_model), {}
    for name, control in CONTROLS.items():
        vectors = control(own, seed=0, groups=groups)
        changed = [dataclasses.replace(e, vectors=v) for e, v in zip(test, vectors, strict=True)]
        rows = [row(example, prompter) for example in changed]
        size = {"size": training.batch_size, "width": lm.config.d_model, "vectors": own.shape[1]}
        found[name] = Forced(rows, job.how, **size)(trained, job.frozen).right
    return found


def main(config: Config) -> None:
    """Prints the table and keeps it."""
    lm = selfx.load(config.model)
    data = config.work / "trace"
    with progress("tracing") as report:
        options = {"ask": config.ask}
        trace("activation-reading", lm, data, limit=config.limit, progress=report, **options)
    n_train = len(load_examples(data, "train"))
    test = load_examples(data, "test")
    chosen = np.random.default_rng(0).permutation(len(test))[: config.test]
    test = [test[index] for index in sorted(chosen)]
    found: dict[str, list[dict[str, np.ndarray]]] = {arm: [] for arm in config.arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in config.arms}
    for seed, arm in itertools.product(config.seeds, config.arms):
        run = config.work / f"{arm}-seed-{seed}".replace(", ", "-").replace(" ", "-")
        training = training_of(config, arm, seed, n_train)
        with progress(f"{arm}, seed {seed}") as report:
            fitted = fit(lm, [data], run, training, save_every=config.steps, report=report)
        seconds[arm].append(fitted.seconds)
        found[arm].append(measured(lm, run, data, training, test))
        rows = [
            summary(arm, done, test) | {"seconds": seconds[arm]}
            for arm, done in found.items()
            if done
        ]
        print(line(next(row for row in rows if row["arm"] == arm)), flush=True)
        kept = dataclasses.asdict(config) | {"work": None, "keep": None}
        write_json(config.keep / "scores.json", {"config": kept, "rows": rows})


def summary(arm: str, found: list[dict[str, np.ndarray]], test: list[Example]) -> dict[str, Any]:
    """An arm's scores with intervals: documents resampled, seeds averaged answer by answer."""
    right = {name: np.mean([seed[name] for seed in found], axis=0) for name in found[0]}
    zero, shuffled = right["zero"], right["shuffled"]
    columns = right | {"lift": right["none"] - zero, "lift_shuffled": right["none"] - shuffled}
    asks = np.array([example.details["ask"] for example in test])
    groups = np.array([example.group for example in test])
    metrics = {name: mean_of(name) for name in columns}
    by_seed = [float((seed["none"] - seed["zero"]).mean()) for seed in found]
    by_ask = {
        ask: {name: float(column[asks == ask].mean()) for name, column in columns.items()}
        for ask in dict.fromkeys(asks)
    }
    scores = intervals(Numbers(columns, groups), metrics)
    return {"arm": arm, "scores": scores, "lift_by_seed": by_seed, "by_ask": by_ask}


def line(row: dict[str, Any]) -> str:
    """A row in words, percent."""
    lift = row["scores"]["lift"]
    parts = [f"{row['arm']:28s}"]
    parts += [f"{name} {100 * row['scores'][name]['value']:5.1f}" for name in CONTROLS]
    parts.append(
        f"lift {100 * lift['value']:5.1f} ({100 * lift['low']:.1f} to {100 * lift['high']:.1f})"
    )
    parts.append("seeds " + " ".join(f"{100 * one:.1f}" for one in row["lift_by_seed"]))
    parts.append(" ".join(f"{one:.0f}" for one in row["seconds"]) + " s")
    return "  ".join(parts)


if __name__ == "__main__":
    command(main, Config)
