"""Out of distribution: the last two columns of Table 1 of the paper (arXiv 2511.08579).

    python -m experiments.paper.out_of_distribution --dry-run

Explainers trained on features are asked of vectors that are none: whole activations at drawn tokens
of text, and differences of activations at the ends of two facts' prompts, each read by its
projection. The paper's simulator scores are, of Llama-3.1-8B by itself, 49.7 and 32.0, by Qwen3-8B
21.1 and 12.3, nearest 38.9 and 18.5, SelfIE 43.3 and 21.0; it has no true descriptions of these.
Here the built-in describer's are there as `gold`, and at the paper's scales the published sets of
vectors are not read: vectors are drawn anew.
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
    arms = [
        Arm(model, seed, ask=ask)
        for seed in config.seeds
        for model in models
        for ask in (None, *bench.setup.outside)
    ]
    return carry_out("out_of_distribution", bench, arms)


if __name__ == "__main__":
    command(main, Config)
