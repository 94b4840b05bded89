"""Activation patching: Tables 2 and 6 of the paper (arXiv 2511.08579), its sizes in Table 7.

    python -m experiments.paper.activation_patching --dry-run
    python -m experiments.paper.activation_patching --scale paper-llama --released \
        --explainers Llama-3.1-8B

Explainers of the target itself and of other models, and one that is trained without activations.
The paper reports exact match and has-changed F1: Qwen3-8B of itself 64.0 and 80.2, by Llama-3.1-8B
54.1, untrained 5.02, itself without activations 59.9; Llama-3.1-8B of itself 48.6 and 77.5, by
Qwen3-8B 41.7, itself without activations 45.2. What content match its rows have, and the printed
errors, were not found. Controls and baselines are in every table; of the paper's own are the
untrained model and the explainer without activations, here `blind`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out
from experiments.paper.scales import setup
from selfx.tasks.schema import PATCHING


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""

    blind: bool = True
    """Also train the target's own explainer on the text alone."""


def main(config: Config) -> dict[str, dict[str, Any]] | None:
    """Prints the tables, keeps them, and returns the scores."""
    bench = Bench(config, setup(config.scale, PATCHING, config.folder))
    models = bench.setup.chosen(config.explainers)
    arms = [Arm(model, seed) for seed in config.seeds for model in models]
    if config.blind and not config.released:
        arms += [Arm(bench.setup.questions.target, seed, blind=True) for seed in config.seeds]
    return carry_out("activation_patching", bench, arms)


if __name__ == "__main__":
    command(main, Config)
