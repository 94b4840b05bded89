"""Feature descriptions: Table 1 of the paper (arXiv 2511.08579), its first two columns.

    python -m experiments.paper.feature_descriptions --dry-run
    python -m experiments.paper.feature_descriptions --scale paper-llama --released \
        --explainers Llama-3.1-8B Llama-3-8B Llama-3.1-8B-Instruct

Explainers of the target and of other models, beside the nearest training direction, SelfIE and the
true descriptions. The paper reports the judge's score and the simulator's, of Llama-3.1-8B by
itself 76.2 and 45.1, by Llama-3-8B 77.0 and 44.6, by its Instruct sibling 77.1 and 42.7, by
Qwen3-8B 70.3 and 40.6, by Llama-3.1-70B 63.9 and 39.5, with a projection trained before 74.1 and
45.2; nearest 58.5 and 33.7, SelfIE, the best of five, 40.1 and 36.4, true descriptions 43.3 in
simulation. How the projection was trained, and the simulator, was not found: here one may be fitted
by `selfx fit-projection`. The judge is `selfx judge` on the folders that this leaves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out
from experiments.paper.scales import setup
from selfx.tasks.schema import FEATURES


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""


def main(config: Config) -> dict[str, dict[str, Any]] | None:
    """Prints the tables, keeps them, and returns the scores."""
    bench = Bench(config, setup(config.scale, FEATURES, config.folder))
    models = bench.setup.chosen(config.explainers)
    arms = [Arm(model, seed) for seed in config.seeds for model in models]
    return carry_out("feature_descriptions", bench, arms)


if __name__ == "__main__":
    command(main, Config)
