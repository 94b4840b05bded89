"""What jobs will take, told before any is begun."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from selfx.models.config import Config
from selfx.models.parameters import parameter_shapes

Kind = Literal["train", "ask", "read"]

WEIGHTS = 106_200_000
"""Weights in SmolLM2's layers, with which the rates were measured."""
RATES: dict[Kind, float] = {"train": 512.0, "ask": 1040.0, "read": 1500.0}
"""Tokens a second on two idle CPU cores: LoRA training, answering (the prompt's tokens), reading
(`benchmarks/training.json`, `benchmarks/generation.json`; reading taken as a third of training)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Something to do.

    Attributes:
      name: for people.
      kind: which rate it goes at.
      tokens: how many go through the model.
      done: whether it stands finished.
    """

    name: str
    kind: Kind
    tokens: float
    done: bool = False


def seconds(job: Job, config: Config) -> float:
    """About how long a job takes on two CPU cores with a model of that shape."""
    own = sum(x.size for path, x in parameter_shapes(config).items() if path.startswith("blocks"))
    return 0.0 if job.done else job.tokens * own / WEIGHTS / RATES[job.kind]


def show(jobs: Sequence[Job], config: Config) -> float:
    """Prints the jobs and what each takes; returns the sum in seconds."""
    for job in jobs:
        length = "done" if job.done else f"{seconds(job, config) / 60:7.1f} min"
        print(f"{length:>12}  {job.name}")
    total = sum(seconds(job, config) for job in jobs)
    print(f"{total / 60:8.1f} min  in all, on two idle CPU cores", flush=True)
    return total
