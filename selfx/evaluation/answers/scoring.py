"""What scores the answers to a task's questions: one interface, one implementation a kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from selfx.evaluation.answers.kinds import VERDICTS, Kind
from selfx.evaluation.answers.metrics import score
from selfx.evaluation.answers.parsing import parse
from selfx.evaluation.statistics.rows import Array, Rows

if TYPE_CHECKING:
    from selfx.evaluation.answers.metrics import Outcomes
    from selfx.tasks.example import Example


@dataclass(frozen=True)
class Sure:
    """How sure an explainer was of its answers.

    Attributes:
        confidence: `[n]` the probability that it gave each of them.
        scaled: the same made better by each method that was fitted on other examples, by name.
        fitted: what came of the fits, and what they were fitted on.
    """

    confidence: Array
    scaled: Mapping[str, Array] = field(default_factory=dict)
    fitted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """What one explainer answered under one control.

    Attributes:
        explainer: Its name, or a baseline's.
        control: What it was fed: "none" (its own vector), "zero", "shuffled", "rotated", "no-text".
        answers: One text for each example, in the examples' order.
        others: Further such lists. Each score is then that of the best text for it, example by
            example: an oracle.
        note: What else to keep of it.
        sure: How sure it was of each, where that was measured.
    """

    explainer: str
    control: str
    answers: Sequence[str]
    others: tuple[Sequence[str], ...] = ()
    note: Mapping[str, Any] = field(default_factory=dict)
    sure: Sure | None = None


class Scoring(Protocol):
    """Tells how true answers are."""

    @property
    def kind(self) -> Kind:
        """What the answers are."""
        ...

    def rate(self, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Rows]:
        """Returns the outcomes of each run."""
        ...

    def elsewhere(self, data: Path, split: str, examples: Sequence[Example]) -> Self:
        """Returns the same scoring for other examples of the trace."""
        ...

    def columns(
        self, examples: Sequence[Example], answered: Sequence[Answered]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each run and example what `predictions.parquet` has of this kind alone."""
        ...

    def record(self) -> dict[str, Any]:
        """Returns what the scores depend on besides the answers."""
        ...

    def attached(self, examples: Sequence[Example], run: Answered) -> dict[str, Any]:
        """Returns further files for the report, by name, given the explainer's own answers."""
        ...


def is_right(rows: Rows) -> Array:
    """Returns `[n]` 1 for answers that are all right, else 0, as exact match has it."""
    columns = rows.columns()
    return np.asarray(columns.get("exact", columns.get("exact_match")), np.float64)


class Verdicts:
    """Answers that say whether the output changed, and to what."""

    kind = VERDICTS

    def rate(self, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Rows]:
        """Returns the outcomes of each run."""
        return [*self._outcomes(examples, answered)]

    def elsewhere(self, data: Path, split: str, examples: Sequence[Example]) -> Verdicts:
        """Returns itself: the truth is in the examples."""
        return self

    def columns(
        self, examples: Sequence[Example], answered: Sequence[Answered]
    ) -> Iterator[dict[str, Any]]:
        """Yields the true and the predicted verdict and content of each answer."""
        for run, outcomes in zip(answered, self._outcomes(examples, answered), strict=True):
            for example, answer, exact in zip(examples, run.answers, outcomes.exact, strict=True):
                parsed = parse(answer)
                yield {
                    "changed": bool(example.changed),
                    "content": example.content,
                    "predicted_changed": parsed.changed,
                    "predicted_content": parsed.content,
                    "parsed": parsed.ok,
                    "exact": bool(exact),
                }

    def record(self) -> dict[str, Any]:
        """Returns nothing: the answers say all."""
        return {}

    def attached(self, examples: Sequence[Example], run: Answered) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def _outcomes(
        self, examples: Sequence[Example], answered: Sequence[Answered]
    ) -> list[Outcomes]:
        return [score(examples, run.answers) for run in answered]


BY_VERDICT = Verdicts()
