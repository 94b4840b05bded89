"""Activation patching that text cannot solve: is the vector read, and by how much?

    python -m experiments.contrast smollm2 --facts FACTS
    python -m experiments.contrast tiny

Each question is asked with several vectors that lead to as many outcomes (`selfx.tasks.contrast`):
whatever answers from the text is right for one in `rows`, at most. An explainer learns to read
first, from questions whose answer only the vector holds, then learns patches, with each seed; one
more, which stands beside them all, learns the same patches with zeros for vectors. Each seed is
asked the same held-out questions under every control, beside every baseline. Work goes to
`runs/contrast` and goes on where it stopped; scores of each seed and over seeds, and the report,
are kept in `experiments/results/contrast`.
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
from selfx.tasks.contrast import Contrast
from selfx.tasks.schema import CONTRAST, READING
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel

LEARNING = Training(
    batch_size=16,
    style="plain",
    injection="embedding",
    optimization=Optimization(1e-3, "linear", 10),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The experiment."""

    facts: str | None = None
    """Facts to patch; none takes those that come with selfx."""
    model: str = "smollm2-135m-instruct"
    """Target and explainer alike."""
    limit: int = 4000
    """Patches, train and test together."""
    contrast: Contrast = Contrast()
    """The sets that they come in."""
    questions: int = 8000
    """Of activation reading, train and test together."""
    ask: str = "here,place,next,lens"
    warm_up: Training = dataclasses.replace(LEARNING, batch_size=32, epochs=330 * 32 / 5700)
    """How reading is learned, once: 345 steps of the questions that are not held back."""
    training: Training = dataclasses.replace(LEARNING, epochs=2.0)
    """How patches are learned, with each seed and without vectors."""
    seeds: tuple[int, ...] = (0, 1)
    """Of training."""
    evaluation: Evaluation = Evaluation(limit=400)
    work: Path = Path("runs/contrast")
    keep: Path = RESULTS / "contrast"


TINY = Config(
    model="",
    limit=48,
    contrast=Contrast(rows=2, chunks=2, margin=0.0),
    questions=24,
    ask="here",
    warm_up=dataclasses.replace(LEARNING, batch_size=4, epochs=0.2, held_out=0.0),
    training=dataclasses.replace(LEARNING, batch_size=4, epochs=0.2, held_out=0.0),
    evaluation=Evaluation(
        limit=6,
        max_new_tokens=2,
        controls=("none", "zero"),
        baselines=("majority",),
        batch_size=8,
        confidence=False,
    ),
    work=Path("runs/tiny/contrast"),
    keep=Path("runs/tiny/results/contrast"),
)


def main(config: Config) -> dict[str, Any]:
    """Prints a table for each seed, keeps all, and returns the scores over seeds."""
    config = placed(config)
    lm = selfx.load(config.model)
    patches = traced(config, lm)
    start = dataclasses.replace(config.training, start=str(warmed_up(config, lm)))
    ways = {f"seed-{seed}": dataclasses.replace(start, seed=seed) for seed in config.seeds}
    ways["blind"] = dataclasses.replace(start, blind=True)
    runs = {
        name: learned(lm, patches, config.work / f"run-{name}", training)
        for name, training in ways.items()
    }
    evaluation = dataclasses.replace(config.evaluation, text_only=str(runs.pop("blind")))
    folders = asked(lm, runs, patches, config.work, evaluation)
    return kept(folders, config, (config.facts, config.contrast.texts))


def placed(config: Config) -> Config:
    """The configuration with a tiny model and its facts where it names no model."""
    if config.model:
        return config
    world = tiny_world(config.work / "world")
    contrast = dataclasses.replace(config.contrast, texts=world.text)
    return dataclasses.replace(config, model=world.model, facts=world.facts, contrast=contrast)


def traced(config: Config, lm: LanguageModel) -> Path:
    """The trace of the patches."""
    out = config.work / "trace"
    options = dataclasses.asdict(config.contrast)
    with progress("tracing the patches") as report:
        trace(CONTRAST, lm, out, data=config.facts, limit=config.limit, progress=report, **options)
    return out


def warmed_up(config: Config, lm: LanguageModel) -> Path:
    """The run that has learned to read."""
    reading = config.work / "reading"
    texts = config.contrast.texts or None
    with progress("tracing the questions") as report:
        trace(
            READING,
            lm,
            reading,
            data=texts,
            limit=config.questions,
            ask=config.ask,
            progress=report,
        )
    return learned(lm, reading, config.work / "run-warm-up", config.warm_up)


CONFIGS = {
    "smollm2": ("SmolLM2 on CPU", Config()),
    "tiny": ("a tiny random model, in seconds", TINY),
}

if __name__ == "__main__":
    command(main, CONFIGS)
