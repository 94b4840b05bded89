"""Inputs withheld: the rows `- activation`, `- layer` and `- token` of the paper's Table 2 and 6.

    python -m experiments.paper.withheld --dry-run

The paper trains an explainer anew without each input: without the activation Qwen3-8B loses 4.1
points of exact match in activation patching and Llama-3.1-8B 3.4; without layer or token
"negligible" (its figures for these were not found). Here each is withheld both ways: in training,
from an explainer of its own, and in asking alone (the controls of every table), which takes more
away: the explainer has learned to count on it. Its test of whether layer and token can be told from
the activation (98.7 %) is what `activation-reading` asks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out
from experiments.paper.scales import Task, setup
from experiments.paper.tables import cell
from selfx.evaluation.controls import TEXT_ONLY
from selfx.evaluation.reread import Reread, reread
from selfx.evaluation.statistics.intervals import paired_differences
from selfx.files import write_json
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""

    task: Task = "activation-patching"


def main(config: Config) -> list[dict[str, Any]]:
    """Prints what each input is worth, keeps it, and returns it; nothing in a dry run."""
    bench = Bench(config, setup(config.scale, config.task, config.folder))
    models = bench.setup.chosen(config.explainers)
    whole = [Arm(model, seed) for seed in config.seeds for model in models]
    lacking = {own: anew(own, config.task) for own in whole}
    arms = [arm for own, others in lacking.items() for arm in (own, *others)]
    found = carry_out(f"withheld/{config.task}", bench, arms)
    if found is None:
        return []
    worth = [each for own, others in lacking.items() for each in lost(bench, own, others, found)]
    write_json(config.keep / config.scale / "withheld" / config.task / "worth.json", worth)
    print("\n".join(f"{one['arm']} without {one['without']}: {one['said']}" for one in worth))
    return worth


def anew(own: Arm, task: str) -> list[Arm]:
    """The same explainer, trained without each input of a task."""
    parts = {PATCHING: ("layer", "token"), ABLATION: ("hint",), FEATURES: ("layer",)}[task]
    blind = [] if task == ABLATION else [dataclasses.replace(own, blind=True)]
    return blind + [dataclasses.replace(own, without=part) for part in parts]


def lost(
    bench: Bench, own: Arm, others: list[Arm], found: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What an explainer loses with each input: its score less that without, paired."""
    whole, folder = reread(bench.scores(own)), bench.scores(own)
    rows = found[own.name]["rows"]
    controls = dict.fromkeys(row["control"] for row in rows if row["control"] != "none")
    lacking = {name: reread(folder, name) for name in controls if name in ran(rows)}
    for other in others:
        part = "an activation" if other.blind else f"a {other.without}"
        lacking[f"{part} in training"] = reread(bench.scores(other))
    return [difference(own, whole, name, without) for name, without in lacking.items()]


def ran(rows: list[dict[str, Any]]) -> set[str]:
    """The controls of the explainer itself: baselines have none."""
    own = {row["control"] for row in rows if row["explainer"] == rows[0]["explainer"]}
    return own - {TEXT_ONLY}  # which stands there by its own name


def difference(own: Arm, whole: Reread, name: str, without: Reread) -> dict[str, Any]:
    """The loss without one input, by the headline score."""
    headline = whole.kind.headline
    metric = {headline: whole.kind.metrics[headline]}
    loss = paired_differences(whole.rows, without.rows, metric)[headline]
    return {"arm": own.name, "without": name, "loss": loss, "said": f"{cell(loss)} points lost"}


if __name__ == "__main__":
    command(main, Config)
