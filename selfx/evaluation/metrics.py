"""Scores as pure functions of per-example outcomes and weights: a bootstrap is one matrix product.

Every metric takes `(outcomes, weights=None)`. Weights are `[n]` for one score or `[r, n]` for `r`
scores at once; without them each example counts once. Over no examples (or zero weight) a metric is
NaN. An unparsable answer is wrong in every metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.parsing import Parsed, normalise, parse

if TYPE_CHECKING:
    from selfx.tasks.example import Example

Array = NDArray[np.float64]


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
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise SelfxError(f"columns of lengths {lengths}", expected="one length for all")

    def __len__(self) -> int:
        return len(self.gold_changed)


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
    return _share(outcomes.exact, weights)


def content_match(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the share of answers whose content is right, whatever their verdict."""
    return _share(outcomes.content_equal, weights)


def parsed(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the share of answers that could be read."""
    return _share(outcomes.parsed, weights)


def has_changed_f1(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns the mean F1 of the verdicts "unchanged" and "changed".

    An unparsable answer is neither: it misses its own class and is charged to no other. A class
    that is neither true nor predicted anywhere has no F1 and is left out of the mean (as
    scikit-learn's `average="macro"` does); a class that is only true, or only predicted, has 0.
    """
    weights = _weights(len(outcomes), weights)
    scores = np.stack([_f1(outcomes, label, weights) for label in (0, 1)])
    present = ~np.isnan(scores)
    return _ratio(np.where(present, scores, 0.0).sum(0), present.sum(0))


def has_changed_f1_released(outcomes: Outcomes, weights: Array | None = None) -> Array:
    """Returns `has_changed_f1` as the paper's released code counts it: unparsable answers dropped.

    It flatters an explainer that stays unreadable where it is unsure; use it only to compare with
    the paper. It is 0 where no answer could be read.
    """
    kept = _weights(len(outcomes), weights) * outcomes.parsed
    return np.nan_to_num(has_changed_f1(outcomes, kept))[()]


Metric = Callable[[Outcomes, Array | None], Array]
METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "has_changed_f1": has_changed_f1,
    "content_match": content_match,
    "parsed": parsed,
}


def _weights(n: int, weights: Array | None) -> Array:
    return np.ones(n) if weights is None else np.asarray(weights, np.float64)


def _share(hits: NDArray[np.bool_], weights: Array | None) -> Array:
    weights = _weights(len(hits), weights)
    return _ratio(weights @ hits.astype(np.float64), weights.sum(-1))


def _f1(outcomes: Outcomes, label: int, weights: Array) -> Array:
    """Returns 2·hits / (true + predicted) of one class; NaN where it is neither."""
    true = (outcomes.gold_changed == label).astype(np.float64)
    predicted = (outcomes.pred_changed == label).astype(np.float64)
    return _ratio(2 * (weights @ (true * predicted)), weights @ (true + predicted))


def _ratio(part: Any, whole: Any) -> Array:
    """Returns part / whole, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    nowhere = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.divide(part, whole, out=nowhere, where=whole > 0)[()]
