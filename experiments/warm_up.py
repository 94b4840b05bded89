"""A recipe that reads, and what it does to the lift in activation patching.

    python -m experiments.warm_up --facts FACTS

First an explainer learns questions whose answer only the vector holds. Then activation patching is
learned three times with the same steps on the same examples: from nothing, from the explainer that
reads, and with its questions mixed in. Each is asked held-out questions with the vector and under
every control. Work goes to `runs/warm-up` and goes on where it stopped; figures are kept in
`experiments/results/warm_up`.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import selfx
from experiments.command import command
from experiments.portable import portable
from experiments.whole_path import RESULTS
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.table import score_table
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.progress import progress
from selfx.tasks.trace import trace as make_trace
from selfx.weights.load import LanguageModel

READING, PATCHING = "activation-reading", "activation-patching"


@dataclasses.dataclass(frozen=True)
class Config:
    """The experiment."""

    facts: str | None = None
    """Facts to patch; none takes those that come with selfx."""
    model: str = "smollm2-135m-instruct"
    """Target and explainer alike."""
    questions: int = 16_000
    """Of activation reading, train and test together."""
    ask: str = "here,place,next,lens"
    patches: int = 4000
    """Examples of activation patching, train and test together."""
    chunks: int = 4
    """Of layers; those of one are patched together."""
    steps: int = 370
    """Of the warm-up, 32 questions each."""
    epochs: float = 1.0
    """Of activation patching."""
    times: float = 0.25
    """How often an epoch of the mixture sees each question of activation reading."""
    evaluation: Evaluation = Evaluation(limit=300, max_new_tokens=24)
    arms: tuple[str, ...] = ("warm-up", "from nothing", "after the warm-up", "mixed")
    seed: int = 0
    work: Path = Path("runs/warm-up")
    keep: Path = RESULTS / "warm_up"


def main(config: Config) -> None:
    """Prints a table for each arm and keeps them."""
    lm = selfx.load(config.model)
    reading, patching = (config.work / name for name in ("reading", "patching"))
    with progress("tracing the questions") as report:
        made = make_trace(
            READING, lm, reading, limit=config.questions, ask=config.ask, progress=report
        )
    with progress("tracing the patches") as report:
        make_trace(
            PATCHING,
            lm,
            patching,
            data=config.facts,
            limit=config.patches,
            chunks=config.chunks,
            progress=report,
        )
    warm_up = config.work / "run-warm-up"
    size = made["counts"]["train"] * 0.95 / 32
    patch = Training(
        epochs=config.epochs,
        batch_size=16,
        style="plain",
        injection="add",
        optimization=Optimization(1e-3, "linear", 10),
        seed=config.seed,
    )
    jobs: dict[str, tuple[list[Path], tuple[float, ...], Training]] = {
        "warm-up": (
            [reading],
            (),
            dataclasses.replace(patch, epochs=config.steps / size, batch_size=32),
        ),
        "from nothing": ([patching], (), patch),
        "after the warm-up": ([patching], (), dataclasses.replace(patch, start=str(warm_up))),
        "mixed": ([patching, reading], (1.0, config.times), patch),
    }
    for arm in config.arms:
        traces, times, training = jobs[arm]
        run = config.work / f"run-{arm.replace(' ', '-')}"
        with progress(arm) as report:
            fit(lm, traces, run, training, times=times, report=report)
        scores = ask(lm, arm, run, traces[0], config)
        print(f"{arm}\n{score_table(scores)}\n", flush=True)


def ask(lm: LanguageModel, arm: str, run: Path, trace: Path, config: Config) -> dict[str, Any]:
    """The scores of an arm, kept without folders of this machine."""
    name = arm.replace(" ", "-")
    with progress(f"{arm}, asked") as report:
        scores = evaluate(
            load_explainer(run, lm),
            trace,
            config.work / f"scores-{name}",
            config.evaluation,
            report=report,
        )
    record = dataclasses.asdict(config) | {"work": None, "keep": None}
    write_json(config.keep / "config.json", portable(record, config.work, [config.facts]))
    write_json(config.keep / f"{name}.json", portable(scores, config.work, [config.facts]))
    shutil.copy(run / "metrics.jsonl", config.keep / f"{name}.metrics.jsonl")
    return scores


if __name__ == "__main__":
    command(main, Config)
