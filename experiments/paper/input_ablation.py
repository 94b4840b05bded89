"""Input ablation: Tables 2, 5 and 8 of the paper (arXiv 2511.08579).

    python -m experiments.paper.input_ablation --data QUESTIONS --soften 0.1 --dry-run
    python -m experiments.paper.input_ablation --scale paper-qwen --released --explainers Qwen3-8B

A question with a hint; how would the answer change without it? There is no vector: the controls
withhold the hint or the question. The paper reports, of Qwen3-8B by itself, exact match 83.4,
has-changed F1 87.0 and content match 90.6, by Llama-3.1-8B-Instruct 58.1, untrained 8.9, 44.4 and
35.3; of Llama-3.1-8B-Instruct by itself 63.8, by Qwen3-8B 56.7. F1 and content of most cross rows
were not found. Its untrained 8.9 is of a prompt that offers a sentence which no changed item has:
`few-shot` is the fairer baseline.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out
from experiments.paper.scales import setup
from selfx.tasks.schema import ABLATION


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""

    soften: float = 0.0
    """Also train the target's own explainer on each answer's share: the temperature, in nats."""


def main(config: Config) -> dict[str, dict[str, Any]] | None:
    """Prints the tables, keeps them, and returns the scores."""
    bench = Bench(config, setup(config.scale, ABLATION, config.folder))
    models = bench.setup.chosen(config.explainers)
    arms = [Arm(model, seed) for seed in config.seeds for model in models]
    if config.soften and not config.released:
        target = bench.setup.questions.target
        arms += [Arm(target, seed, soften=config.soften) for seed in config.seeds]
    return carry_out("input_ablation", bench, arms)


if __name__ == "__main__":
    command(main, Config)
