"""Scores of verdicts, as pure functions of per-example outcomes and weights.

They are metrics as `selfx.evaluation.statistics.rows` has them. An unparsable answer is wrong in
every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.answers.parsing import Parsed, normalise, parse
from selfx.evaluation.statistics.rows import (
    Array,
    Metric,
    as_weights,
    check_lengths,
    ratio,
    weighted_mean,
)

if TYPE_CHECKING:
    from selfx.tasks.example import Example

_COLUMNS = ("gold_changed", "pred_changed", "content_equal", "exact", "parsed")


@dataclass(frozen=True)
class Outcomes:
    """What one explainer did on `n` examples.

    Attributes:
        gold_changed: `[n]` bool, whether the output truly changed.
        pred_changed: `[n]` int, the answer's verdict: 1 changed, 0 unchanged, -1 unparsable.
        content_equal: `[n]` bool, whether the content is right, whatever the verdict.
        exact: `[n]` bool, whether verdict and content are both right.
        parsed: `[n]` bool, whether the answer could be read.
        group: `[n]` the cluster of each example, or None where examples are independent.
    """

    gold_changed: NDArray[np.bool_]
    pred_changed: NDArray[np.int8]
    content_equal: NDArray[np.bool_]
    exact: NDArray[np.bool_]
    parsed: NDArray[np.bool_]
    group: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        check_lengths({**self.columns(), "group": self.group})

    def __len__(self) -> int:
        return len(self.gold_changed)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Returns all that metrics look at, each `[n]`."""
        return {name: getattr(self, name) for name in _COLUMNS}

    def truth(self) -> NDArray[np.bool_]:
        """Returns what any explainer's outcomes on the same examples have in common."""
        return self.gold_changed

    def take(self, rows: NDArray[np.intp]) -> Outcomes:
        """Returns some of the rows, without their groups."""
        taken = {name: column[rows] for name, column in self.columns().items()}
        return replace(self, **taken, group=None)

    def join(self, other: Outcomes) -> Outcomes:
        """Returns these rows and then those of another, without their groups."""
        there = other.columns()
        both = {name: np.concatenate([own, there[name]]) for name, own in self.columns().items()}
        return replace(self, **both, group=None)


def score(examples: Sequence[Example], answers: Sequence[str]) -> Outcomes:
    """Returns the outcomes of the answers, one for each example, in the same order."""
    if len(examples) != len(answers):
        raise SelfxError(
            f"{len(answers)} answers to {len(examples)} examples",
            expected="one answer for each example, in the same order",
        )
    parsed = [parse(answer) for answer in answers]
    verdict = np.array([-1 if p.changed is None else int(p.changed) for p in parsed], np.int8)
    gold = np.array([example.changed for example in examples], bool)
    equal = np.array([_same_content(e, p) for e, p in zip(examples, parsed, strict=True)], bool)
    return Outcomes(
        gold_changed=gold,
        pred_changed=verdict,
        content_equal=equal,
        exact=equal & (verdict == gold),
        parsed=verdict >= 0,
        group=np.array([example.group for example in examples], dtype=object),
    )


def _same_content(example: Example, parsed: Parsed) -> bool:
    return parsed.content is not None and normalise(parsed.content) == normalise(example.content)


def exact_match(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the share of answers whose verdict and content are both right."""
    return weighted_mean(outcomes.exact, weights)


def content_match(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the share of answers whose content is right, whatever their verdict."""
    return weighted_mean(outcomes.content_equal, weights)


def parsed(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the share of answers that could be read."""
    return weighted_mean(outcomes.parsed, weights)


def has_changed_f1(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the mean F1 of the verdicts "unchanged" and "changed".

    An unparsable answer is neither: it misses its own class and is charged to no other. A class
    that is neither true nor predicted anywhere has no F1 and is left out of the mean (as
    scikit-learn's `average="macro"` does); a class that is only true, or only predicted, has 0.
    """
    weights = as_weights(len(outcomes), weights)
    scores = np.stack([_f1(outcomes, label, weights) for label in (0, 1)])
    present = ~np.isnan(scores)
    return ratio(np.where(present, scores, 0.0).sum(0), present.sum(0))


def has_changed_f1_released(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns `has_changed_f1` as the paper's released code counts it: unparsable answers dropped.

    It flatters an explainer that stays unreadable where it is unsure; use it only to compare with
    the paper. A class that is neither true nor predicted has an F1 of 0 there, and counts.
    """
    kept = as_weights(len(outcomes), weights) * outcomes.parsed
    return np.mean([np.nan_to_num(_f1(outcomes, label, kept)) for label in (0, 1)], axis=0)[()]


METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "has_changed_f1": has_changed_f1,
    "content_match": content_match,
    "parsed": parsed,
}


def _f1(outcomes: Outcomes, label: int, weights: Array) -> Array:
    """Returns 2·hits / (true + predicted) of one class; NaN where it is neither."""
    true = (outcomes.gold_changed == label).astype(np.float64)
    predicted = (outcomes.pred_changed == label).astype(np.float64)
    return ratio(2 * (weights @ (true * predicted)), weights @ (true + predicted))
