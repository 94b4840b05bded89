"""What a trace's held-out questions give away to whoever looks answers up: no model is asked.

    python -m experiments.looked_up --data runs/states/trace --keep experiments/results/states

Constants, nearest neighbours, ridge regression on the vectors and, where a trace keeps them, the
target's own scores: how much there is to be read, told in a minute, before an explainer is trained.
All held-out questions are asked; intervals are over clusters. Kept as `KEEP/looked-up.json`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.command import command
from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import NEEDS, kind_of
from selfx.evaluation.answers.metrics import score
from selfx.evaluation.baselines.named import LOOKED_UP, looked_up
from selfx.evaluation.statistics.intervals import intervals
from selfx.evaluation.table import aligned
from selfx.files import write_json
from selfx.tasks.graded import keeps_scores
from selfx.tasks.store import load_examples, load_trace


@dataclasses.dataclass(frozen=True)
class Config:
    """Which trace."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Of activation patching or input ablation."""
    keep: Path | None = None
    """A folder for the figures; none keeps nothing."""


def main(config: Config) -> dict[str, Any]:
    """Prints the table, keeps it, and returns it."""
    record, kind = load_trace(config.data), kind_of(load_trace(config.data)["task"])
    if kind.name != "verdicts":
        raise SelfxError(
            f"a trace of {record['task']}", expected="activation-patching or input-ablation"
        )
    train, test = load_examples(config.data, "train"), load_examples(config.data, "test")
    held = {"vector"} if all(example.vectors is not None for example in test) else set()
    held |= {"score"} if keeps_scores([*train, *test]) else set()
    names = [name for name in LOOKED_UP[kind.name] if NEEDS.get(name, "") in ("", *held)]
    found = {
        name: intervals(score(test, said.answers), kind.metrics)
        for name, said in looked_up(kind, names, train, test).items()
    }
    headings = ("", *(measure.heading for measure in kind.measures.values()))
    rows = [(name, *map(_cell, scores.values())) for name, scores in found.items()]
    print("\n".join(aligned([headings, *rows])), flush=True)
    told: dict[str, Any] = {
        "task": record["task"],
        "target": record["target"],
        "trained on": len(train),
        "asked": len(test),
        "clusters": len({example.group for example in test}),
        "settings": record["settings"],
        "scores": found,
    }
    if config.keep is not None:
        write_json(config.keep / "looked-up.json", told)
    return told


def _cell(score: Any) -> str:
    return f"{100 * score['value']:.1f} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


if __name__ == "__main__":
    command(main, Config)
