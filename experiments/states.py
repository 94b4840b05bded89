"""Input ablation told by the target's own states: read from what it is about to answer with a hint,
what it would answer without one.

    python -m experiments.states smollm2 --questions QUESTIONS
    python -m experiments.states tiny

In the published task an explainer is told the hinted question and no vector. Here it is given the
target's residuals where that is about to answer the hinted question, and of the question the hint
and that answer alone: what it gets right beyond them, it has read. One more, which stands beside
those of all seeds, is told the whole question and given zeros for vectors. All learn how near the
target was to each letter (`soften`). Of the states it is shown what a ridge regression reads of the
outcome in them (`probed`). Work goes to `runs/states` and goes on where it stopped; scores of each
seed and over seeds, and the report, are kept in `experiments/results/states`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import selfx
from experiments.command import command
from experiments.over_seeds import asked, kept, learned
from experiments.tiny import tiny_world
from experiments.whole_path import RESULTS
from selfx.evaluation.run import Evaluation
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.progress import progress
from selfx.tasks.ablation import Ablating
from selfx.tasks.schema import ABLATION
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel

WITHHELD = ("question", "layer")
"""What the explainers that read are not told; the layers are the same ones everywhere."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The experiment."""

    questions: str | None = None
    """To ask with hints; none takes those that come with selfx."""
    model: str = "smollm2-135m-instruct"
    """Target and explainer alike."""
    limit: int = 8000
    """Hinted questions, train and test together."""
    ablating: Ablating = Ablating(hints_per_question=4, max_tokens=152, states="20,24,28")
    """How they are asked, and which states are kept."""
    training: Training = Training(
        epochs=1.5,
        batch_size=16,
        style="plain",
        injection="marker",
        strength=1.0,
        probed=0.7,
        soften=0.1,
        held_out=0.02,
        optimization=Optimization(1e-3, "linear", 10),
    )
    """How each explainer learns."""
    blind_epochs: float = 0.15
    """Passes of the one without vectors, whose questions are twice as long."""
    seeds: tuple[int, ...] = (0, 1)
    """Of training."""
    evaluation: Evaluation = Evaluation(limit=300, max_new_tokens=16)
    work: Path = Path("runs/states")
    keep: Path = RESULTS / "states"


TINY = Config(
    model="",
    limit=24,
    ablating=Ablating(
        answering="letters", hints_per_question=2, max_tokens=700, states="0,1", test_share=0.4
    ),
    training=Training(
        epochs=0.2,
        batch_size=4,
        rank=2,
        targets=("q",),
        style="plain",
        injection="marker",
        strength=1.0,
        probed=0.5,
        soften=0.1,
        held_out=0.0,
        optimization=Optimization(1e-3),
    ),
    blind_epochs=0.2,
    evaluation=Evaluation(
        limit=6,
        max_new_tokens=2,
        controls=("none", "zero", "no-question", "no-hint"),
        baselines=("probe", "shifted-scores"),
        batch_size=8,
        confidence=False,
    ),
    work=Path("runs/tiny/states"),
    keep=Path("runs/tiny/results/states"),
)


def main(config: Config) -> dict[str, Any]:
    """Prints a table for each seed, keeps all, and returns the scores over seeds."""
    config = placed(config)
    lm = selfx.load(config.model)
    data = traced(config, lm)
    told = dataclasses.replace(config.training, withhold=WITHHELD)
    ways = {f"seed-{seed}": dataclasses.replace(told, seed=seed) for seed in config.seeds}
    ways["blind"] = dataclasses.replace(
        config.training, blind=True, probed=0.0, epochs=config.blind_epochs
    )
    runs = {
        name: learned(lm, data, config.work / f"run-{name}", training)
        for name, training in ways.items()
    }
    evaluation = dataclasses.replace(config.evaluation, text_only=str(runs.pop("blind")))
    folders = asked(lm, runs, data, config.work, evaluation)
    return kept(folders, config, (config.questions,))


def placed(config: Config) -> Config:
    """The configuration with a tiny model and its questions where it names no model."""
    if config.model:
        return config
    world = tiny_world(config.work / "world")
    return dataclasses.replace(config, model=world.model, questions=world.questions)


def traced(config: Config, lm: LanguageModel) -> Path:
    """The trace of the hinted questions."""
    out = config.work / "trace"
    options = dataclasses.asdict(config.ablating)
    with progress("tracing the hints") as report:
        trace(
            ABLATION, lm, out, data=config.questions, limit=config.limit, progress=report, **options
        )
    return out


CONFIGS = {
    "smollm2": ("SmolLM2 on CPU", Config()),
    "tiny": ("a tiny random model, in seconds", TINY),
}

if __name__ == "__main__":
    command(main, CONFIGS)
