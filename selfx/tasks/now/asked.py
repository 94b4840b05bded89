"""A question made to order, what answers it, and the desk at which both are made."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from selfx.errors import SelfxError
from selfx.features.exemplars.excerpts import Evidence
from selfx.progress import Report, silent
from selfx.tasks.example import Example
from selfx.tasks.now.request import Request
from selfx.tasks.reading_model import read_places
from selfx.weights.load import LanguageModel

SITE = "resid_post"
"""Where vectors are read."""
BATCH = 16

Place = tuple[tuple[int, ...], int]
"""A text in tokens, and a position in it."""


@dataclasses.dataclass(frozen=True)
class Read:
    """What the target has at a place.

    Attributes:
      states: float32 `[l, d]`, the residual that leaves every layer.
      following: the token that it puts next.
    """

    states: np.ndarray
    following: int


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
      example: the question, with its true answer only where a trace holds it.
      about: what it is about, in words and numbers.
      experiment: what the truth is found with; each kind knows its own.
    """

    example: Example
    about: dict[str, Any]
    experiment: Any = None


@dataclasses.dataclass(frozen=True)
class Truth:
    """What really happened.

    Attributes:
      answer: the true answer, or "" where there is none.
      changed: whether the outcome changed.
      content: the outcome.
      facts: what was measured.
      evidence: texts to score a description on, or None.
      note: why there is no answer.
    """

    answer: str = ""
    changed: bool = False
    content: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evidence: Evidence | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Desk:
    """What questions are made with.

    Attributes:
      width, layers: the target's shape.
      load: loads the target, the first time that it is needed.
      seen: what the target has at the places that were looked at.
      states: after which layers the run has learned of the target's states before a hinted answer,
        as a trace of input ablation has it; "" for none.
      trace: a trace of the run's, for what its truths were measured with, or None.
      report: told of progress.
      measured: what was measured of the target once for all questions, by name.
    """

    width: int
    layers: int
    load: Callable[[], LanguageModel]
    seen: Mapping[Place, Read] = dataclasses.field(default_factory=dict)
    states: str = ""
    trace: Path | None = None
    report: Report = silent
    measured: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def target(self) -> LanguageModel:
        """The target."""
        return self.load()

    def look(self, places: Iterable[Place]) -> Desk:
        """The same desk after the target has read some texts."""
        wanted = list(dict.fromkeys(places))
        if not wanted:
            return self
        every = tuple(range(self.target.config.n_layers))
        at = np.array([[position] for _, position in wanted], np.int32)
        states, following = read_places(
            self.target.model,
            [ids for ids, _ in wanted],
            at,
            site=SITE,
            layers=every,
            batch_size=min(BATCH, len(wanted)),
        )
        found = {
            place: Read(state[0], int(token[0]))
            for place, state, token in zip(wanted, states, following, strict=True)
        }
        target = self.target
        return dataclasses.replace(self, seen={**self.seen, **found}, load=lambda: target)

    def check_layers(self, layers: Iterable[int]) -> None:
        """Raises SelfxError for a layer that the target does not have."""
        lost = [layer for layer in layers if not 0 <= layer < self.layers]
        if lost:
            raise SelfxError(
                f"layer {lost[0]}", expected=f"layers of the target, 0 to {self.layers - 1}"
            )


class Kind(Protocol):
    """How the questions of a task are made and answered; a module with these."""

    def places(self, request: Request, desk: Desk) -> list[Place]:
        """What the target must read first."""
        ...

    def questions(self, request: Request, desk: Desk) -> list[Asked]:
        """The questions, at a desk that has looked at these places."""
        ...

    def truths(self, asked: Sequence[Asked], desk: Desk) -> list[Truth]:
        """What really happens."""
        ...
