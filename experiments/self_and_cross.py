"""Self against cross: two models, each explained by itself and by the other.

    python -m experiments.self_and_cross smollm2 --dry-run
    python -m experiments.self_and_cross smollm2 --task input-ablation --data QUESTIONS
    python -m experiments.self_and_cross tiny

The second model is a sibling (`experiments.siblings`, made first unless it is there); more models
may be named. Each target is traced; on each trace every model is trained as an explainer, with the
same examples, steps and seeds, and asked with all controls. Work goes to `runs/` and goes on where
it stopped; the matrix, with the paired difference self minus cross on each target and the smallest
difference that could have been seen, is kept in `experiments/results/self_and_cross`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import selfx
from experiments import siblings
from experiments.command import command
from experiments.cost import Job, show
from experiments.tiny import tiny_world
from experiments.whole_path import RESULTS
from selfx.evaluation.across.matrix import Entry, matrix
from selfx.evaluation.run import Evaluation, evaluate
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.progress import progress
from selfx.tasks.schema import ABLATION, PATCHING
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel

TOKENS = {PATCHING: 120, ABLATION: 240}
"""Of a question with its answer, about."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The matrix."""

    task: str = PATCHING
    data: str | None = None
    """Facts or questions; none takes those that come with selfx."""
    sibling: siblings.Config = siblings.Config()
    """Its original is the first model, what comes out the second."""
    more: tuple[str, ...] = ()
    """Further models, of any width: theirs is met by a projection, and their cells are cross."""
    limit: int = 2000
    """Examples of a trace, train and test together."""
    longest: int = 152
    """Tokens of a question of input ablation."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    training: Training = Training(
        epochs=1.0,
        batch_size=16,
        style="plain",
        injection="add",
        optimization=Optimization(1e-3, "linear", 10),
    )
    evaluation: Evaluation = Evaluation(limit=300, max_new_tokens=24)
    work: Path = Path("runs/self-and-cross")
    keep: Path = RESULTS / "self_and_cross"
    dry_run: bool = False
    """Only tell what would be done, and how long it may take."""


TINY = Config(
    task=ABLATION,
    sibling=siblings.TINY,
    limit=40,
    longest=160,
    seeds=(0,),
    training=Training(
        epochs=0.1,
        batch_size=4,
        style="plain",
        optimization=Optimization(1e-2),
        held_out=0.0,
    ),
    evaluation=Evaluation(
        limit=6,
        max_new_tokens=2,
        controls=("none",),
        baselines=("majority",),
        batch_size=8,
        confidence=False,
    ),
    work=Path("runs/tiny/self-and-cross"),
    keep=Path("runs/tiny/results/self_and_cross"),
)


def main(config: Config) -> dict[str, Any]:
    """Prints the matrix, keeps it, and returns it."""
    sibling = siblings.placed(config.sibling)
    names = {"original": sibling.model, "sibling": str(sibling.work / "model")}
    names |= {Path(name).name: name for name in config.more}
    if config.dry_run:
        show([*siblings.jobs(sibling), *jobs(config, names)], selfx.load(sibling.model).config)
        return {}
    made = siblings.main(config.sibling)
    if sibling.model != config.sibling.model and config.data is None:
        world = tiny_world(config.sibling.work.parent / "world")
        config = dataclasses.replace(
            config, data=world.facts if config.task == PATCHING else world.questions
        )
    models = {label: selfx.load(name) for label, name in names.items()}
    for label, lm in models.items():
        traced(config, label, lm)
    entries = [
        cell(config, models, target, explainer, seed)
        for seed, target, explainer in itertools.product(config.seeds, models, models)
    ]
    found = {"config": told(config), "sibling": made["statement"], **matrix(entries)}
    write_json(config.keep / f"{config.task}.json", found)
    print(table(found), flush=True)
    return found


def folder(config: Config, *parts: object) -> Path:
    """Where something of this task is kept."""
    return config.work / config.task / "-".join(map(str, parts))


def traced(config: Config, label: str, lm: LanguageModel) -> None:
    """Makes the trace of a target."""
    options = {"max_tokens": config.longest} if config.task == ABLATION else {}
    with progress(f"tracing {label}") as report:
        trace(
            config.task,
            lm,
            folder(config, "trace", label),
            data=config.data,
            limit=config.limit,
            progress=report,
            **options,
        )


def cell(
    config: Config, models: dict[str, LanguageModel], target: str, explainer: str, seed: int
) -> Entry:
    """An explainer trained on a target and asked; the folder of its evaluation."""
    data, lm = folder(config, "trace", target), models[explainer]
    where = folder(config, target, "by", explainer, seed)
    training = dataclasses.replace(config.training, seed=seed)
    if lm.config.d_model != models[target].config.d_model and not training.projection:
        training = dataclasses.replace(training, projection="random")
    with progress(f"{target} by {explainer}, seed {seed}") as report:
        fit(lm, [data], where / "run", training, report=report)
    with progress(f"{target} by {explainer}, seed {seed}, asked") as report:
        explains = load_explainer(where / "run", lm)
        evaluate(explains, data, where / "scores", config.evaluation, report=report)
    return Entry(target, explainer, seed, where / "scores")


def told(config: Config) -> dict[str, Any]:
    """The configuration as anybody has it, without folders of this machine."""
    found = dataclasses.asdict(config) | {"work": None, "keep": None, "dry_run": None}
    found |= {
        "sibling": siblings.told(config.sibling),
        "data": None if config.data is None else Path(config.data).name,
        "more": [Path(name).name for name in config.more],
    }
    return json.loads(json.dumps(found))


def table(found: dict[str, Any]) -> str:
    """The cells and the differences in lines, percent."""
    headline = found["headline"]
    lines = [f"{found['task']}, {headline}"]
    for one in found["cells"]:
        own = " (self)" if one["self"] else ""
        seeds = " ".join(f"{100 * value:.1f}" for value in one["by_seed"].values())
        lines.append(
            f"  {one['target']} explained by {one['explainer']}{own}: "
            f"{_percent(one['metrics'][headline])}, seeds {seeds}"
        )
    for one in found["differences"]:
        least = one["smallest"][headline]
        seen = "no telling what" if least is None else f"{100 * least:.1f}"
        lines.append(
            f"  {one['target']}, self - {one['other']}: {_percent(one['metrics'][headline])} "
            f"points, p {one['test']['p']:.3f}; {seen} could have been seen"
        )
    return "\n".join(lines)


def _percent(interval: dict[str, float]) -> str:
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def jobs(config: Config, names: dict[str, str]) -> list[Job]:
    """What is to be done, with about how many tokens."""
    length = TOKENS.get(config.task, 120)
    found = [
        Job(
            f"trace {label}",
            "read",
            2 * config.limit * length,
            (folder(config, "trace", label) / "trace.json").exists(),
        )
        for label in names
    ]
    asked = min(config.evaluation.limit or config.limit // 4, config.limit // 4)
    times = len(config.evaluation.controls) + 1 if config.task == PATCHING else 2
    for seed, target, explainer in itertools.product(config.seeds, names, names):
        where = folder(config, target, "by", explainer, seed)
        name = f"{target} by {explainer}, seed {seed}"
        learned = 0.75 * config.limit * config.training.epochs * length
        trained = (where / "run" / "adapter").exists()
        done = (where / "scores" / "report.html").exists()
        found.append(Job(f"train {name}", "train", learned, trained))
        found.append(Job(f"ask {name}", "ask", asked * times * length, done))
    return found


CONFIGS = {
    "smollm2": ("SmolLM2 and a sibling, on CPU", Config()),
    "tiny": ("tiny random models, in seconds", TINY),
}

if __name__ == "__main__":
    command(main, CONFIGS)
