"""The matrix of targets and explainers: Tables 2 and 6 of the paper (arXiv 2511.08579), its thesis.

    python -m experiments.paper.cross_model --dry-run
    python -m experiments.paper.cross_model --scale paper-llama --task input-ablation

Every model explains every model, itself too. At the paper's scales these are Llama-3.1-8B (of input
ablation its Instruct sibling) and Qwen3-8B, each on its own published data set; at the others, all
models of the scale, each traced. What counts is the difference, self minus cross, on one target's
questions. Exact match in the paper: of Qwen3-8B, 64.0 against 54.1 in patching and 83.4 against
58.1 in ablation; of Llama, 48.6 against 41.7 and 63.8 against 56.7. `experiments.self_and_cross`
does the same for SmolLM2 and a sibling that it makes itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out, told_of
from experiments.paper.scales import Setup, Task, setup
from experiments.paper.tables import cell
from selfx.evaluation.across.matrix import Entry, matrix
from selfx.files import write_json
from selfx.tasks.schema import FEATURES


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""

    task: Task = "activation-patching"


def main(config: Config) -> dict[str, Any]:
    """Prints the matrix, keeps it, and returns it; nothing in a dry run."""
    entries = []
    for bench in benches(config):
        models = bench.setup.chosen(config.explainers)
        arms = [Arm(model, seed) for seed in config.seeds for model in models]
        target = bench.setup.questions.target.name
        if carry_out(f"cross_model/{config.task}/{target}", bench, arms) is not None:
            entries += [Entry(target, a.model.name, a.seed, bench.scores(a)) for a in arms]
    if not entries:
        return {}
    found = matrix(entries)
    kept = config.keep / config.scale / "cross_model" / config.task / "matrix.json"
    write_json(kept, told_of(found, config))
    print(table(found), flush=True)
    return found


def benches(config: Config) -> list[Bench]:
    """One for each target: of the paper its two scales, else each model of the scale in turn."""
    if config.scale.startswith("paper"):
        other = "paper-qwen" if config.scale == "paper-llama" else "paper-llama"
        whose: tuple[Any, ...] = (config.scale,)
        whose += () if config.task == FEATURES else (other,)
        both = (dataclasses.replace(config, scale=scale) for scale in whose)
        return [Bench(one, setup(one.scale, config.task, one.folder)) for one in both]
    whole = setup(config.scale, config.task, config.folder)
    return [Bench(config, turned(whole, number)) for number in range(len(whole.models))]


def turned(whole: Setup, number: int) -> Setup:
    """The setup with another of its models as the target, and the rest to explain it."""
    target, own = whole.models[number], whole.questions
    if number == 0:
        return whole
    questions = dataclasses.replace(own, target=target, name=f"{own.name}-of-{target.name}")
    others = tuple(model for model in whole.models if model != target)
    return dataclasses.replace(whole, questions=questions, others=others)


def table(found: dict[str, Any]) -> str:
    """The matrix in words: percent, 95 % intervals."""
    headline = found["headline"]
    lines = [f"{found['task']}, {headline}"]
    for one in found["cells"]:
        score = cell(one["metrics"][headline])
        lines.append(f"  {one['target']} explained by {one['explainer']}: {score}")
    for one in found["differences"]:
        least = one["smallest"][headline]
        seen = "" if least is None else f"; {100 * least:.1f} points would have been seen"
        gained = cell(one["metrics"][headline])
        lines.append(f"  {one['target']}: self minus {one['other']} {gained}{seen}")
    return "\n".join(lines)


if __name__ == "__main__":
    command(main, Config)
