"""Score against training data: §4 and Fig. 5 of the paper (arXiv 2511.08579).

    python -m experiments.paper.data_scaling --dry-run
    python -m experiments.paper.data_scaling --task activation-patching --shares 0.1 0.3 1

The same explainer from ever more of the same training groups, each share holding the smaller ones,
beside the nearest training direction and the constant answers of that very share. Of feature
descriptions the paper has 100 to 100,000 features a layer; at 0.8 % (1,024 a layer) its explainer
of Llama-3.1-8B by itself has 71 % of its final judge's score and 80 % of its simulator's, Qwen3-8B
35 and 24, the nearest direction 55 and 56. Its other points were only drawn. Here epochs are as
many for every share, and steps therefore fewer: whether the paper's were was not found.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out
from experiments.paper.scales import Task, setup
from experiments.paper.tables import cell, summary
from selfx.evaluation.answers.kinds import kind_of
from selfx.files import write_json
from selfx.tasks.store import load_examples

SHARES = {
    "tiny": (0.5, 1.0),
    "smollm2": (0.03, 0.1, 0.3, 1.0),
    "paper-llama": (0.0008, 0.004, 0.008, 0.08, 1.0),
    "paper-qwen": (0.01, 0.03, 0.1, 0.3, 1.0),
}
"""Of the training groups; of Llama's features 100, 500, 1,000 and 10,000 a layer, and all."""


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""

    task: Task = "feature-description"
    shares: tuple[float, ...] = ()
    """Of the training groups; none given takes the scale's."""


def main(config: Config) -> list[dict[str, Any]]:
    """Prints the curves, keeps them, and returns their points; nothing in a dry run."""
    bench = Bench(config, setup(config.scale, config.task, config.folder))
    models = bench.setup.chosen(config.explainers)
    shares = sorted(config.shares or SHARES[config.scale])
    arms = [
        Arm(model, seed, share) for seed in config.seeds for model in models for share in shares
    ]
    found = carry_out(f"data_scaling/{config.task}", bench, arms)
    if found is None:
        return []
    points = [point(bench, arm, found[arm.name]) for arm in arms]
    kept = config.keep / config.scale / "data_scaling" / config.task / "curve.json"
    write_json(kept, points)
    print("\n".join(map(line, points)), flush=True)
    return points


def point(bench: Bench, arm: Arm, scores: dict[str, Any]) -> dict[str, Any]:
    """A point of the curve: how much was learned from, and the scores of all rows there."""
    folder = bench.trace(bench.setup.questions, arm.share)
    headline = kind_of(scores["task"]).headline
    baselines = {
        row["explainer"]: row["metrics"][headline]
        for row in scores["rows"]
        if row["explainer"] in kind_of(scores["task"]).baselines
    }
    return {
        "explainer": arm.model.name,
        "seed": arm.seed,
        "share": arm.share,
        "examples": len(load_examples(folder, "train")),
        **summary(arm.name, scores),
        "baselines": baselines,
    }


def line(one: dict[str, Any]) -> str:
    """A point in words."""
    nearest = [f"{k} {cell(v)}" for k, v in one["baselines"].items() if "nearest" in k]
    own = f"{one['explainer']} from {one['examples']} examples: {cell(one['scores']['none'])}"
    return "  ".join([own, f"lift {cell(one['lift'])}", *nearest])


if __name__ == "__main__":
    command(main, Config)
