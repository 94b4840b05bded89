"""Of two behaviours that a model has had, which one an explainer tells: the new, the old, neither.

After Binder et al. (Looking Inward, arXiv 2410.13787) and Introspective Coupling (2606.32038): a
target is trained further, and its explainer is asked about what changed by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import Outcomes, score
from selfx.evaluation.statistics.intervals import intervals, paired_differences
from selfx.evaluation.statistics.paired import swap_test
from selfx.evaluation.statistics.power import smallest_differences
from selfx.evaluation.statistics.rows import Array, Numbers, mean_of, ratio, weighted_mean
from selfx.tasks.example import Example

PARTS = ("exact", "verdict", "content")
"""What of an answer is held against both truths: all of it, whether the output changed, to what."""


@dataclass(frozen=True)
class Twice:
    """Questions asked of two models, each with both true answers.

    Attributes:
        new: with the answers of the model as it is.
        old: with those of the model as it was, in the same order.
    """

    new: tuple[Example, ...]
    old: tuple[Example, ...]


def pair(new: Sequence[Example], old: Sequence[Example]) -> Twice:
    """Returns the questions that stand in both, matched by what is asked, in the order of `new`.

    Raises:
        SelfxError: there is none.
    """
    before = {(example.system, example.question): example for example in old}
    both = [(e, before[key]) for e in new if (key := (e.system, e.question)) in before]
    if not both:
        raise SelfxError(
            f"no question in common among {len(new)} new and {len(old)} old",
            expected="traces of the same texts, with the same seed",
        )
    one, other = zip(*both, strict=True)
    return Twice(tuple(one), tuple(other))


def told(questions: Twice, answers: Sequence[str], part: str = "exact") -> Numbers | None:
    """Returns for each question on which the truths differ in that part what an answer tells.

    `new` and `old` say whether it is that model's truth, `neither` that it is none of them, `lean`
    is new minus old. None where the truths never differ.
    """
    new, old = (score(examples, answers) for examples in (questions.new, questions.old))
    return _rows(_told(new, old, part), _differ(new, old, questions)[part], new.group)


def lean_difference(
    questions: Twice, one: Sequence[str], other: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Returns how much more often one set of answers is `new`, and `old`, than another is.

    Beside the intervals stand `smallest`, the true differences that would have been seen, and the
    `test` of the lean: clusters swapped between the two.

    Raises:
        SelfxError: the truths never differ.
    """
    a, b = told(questions, one), told(questions, other)
    if a is None or b is None:
        raise SelfxError("two models that never differ", expected="questions that tell them apart")
    metrics = {name: mean_of(name) for name in ("new", "old", "lean")}
    return {
        **paired_differences(a, b, metrics, seed=seed),
        "smallest": smallest_differences(a, b, metrics, seed=seed),
        "test": swap_test(metrics["lean"], a, b, seed=seed).to_json(),
    }


def three_way(questions: Twice, answers: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Returns for each part of an answer the shares `new`, `old`, `neither`, with intervals.

    Counted are the questions whose two truths differ in that part. `lean` is new minus old: above 0
    the explainer follows the model as it is; `new_of_told` is the share of new among those that
    tell either. An answer that cannot be read tells neither. `alike` has the share of right answers
    where the two truths are the same.
    """
    found: dict[str, Any] = {}
    for part in PARTS:
        rows = told(questions, answers, part)
        found[part] = {"n": 0} if rows is None else _shares(rows, seed)
    new, old = (score(examples, answers) for examples in (questions.new, questions.old))
    right = {"right": new.exact.astype(np.float64)}
    rows = _rows(right, ~_differ(new, old, questions)["exact"], new.group)
    none: dict[str, Any] = {"n": 0}
    found["alike"] = none if rows is None else _means(rows, seed)
    return found


def _differ(new: Outcomes, old: Outcomes, questions: Twice) -> dict[str, NDArray[np.bool_]]:
    verdict = new.gold_changed != old.gold_changed
    pairs = zip(questions.new, questions.old, strict=True)
    content = np.array([one.content != other.content for one, other in pairs], bool)
    return {"exact": verdict | content, "verdict": verdict, "content": content}


def _told(new: Outcomes, old: Outcomes, part: str) -> dict[str, NDArray[np.float64]]:
    hits = {
        "exact": (new.exact, old.exact),
        "content": (new.content_equal, old.content_equal),
        "verdict": tuple(o.pred_changed == o.gold_changed for o in (new, old)),
    }[part]
    one, other = (hit.astype(np.float64) for hit in hits)
    return {"new": one, "old": other, "neither": 1 - one - other, "lean": one - other}


def _rows(
    columns: dict[str, NDArray[np.float64]], kept: NDArray[np.bool_], group: NDArray[Any] | None
) -> Numbers | None:
    """Returns the rows that are kept, None where there are none."""
    if not kept.any():
        return None
    groups = None if group is None else group[kept]
    return Numbers({name: column[kept] for name, column in columns.items()}, groups)


def _shares(rows: Numbers, seed: int) -> dict[str, Any]:
    return _means(rows, seed) | intervals(rows, {"new_of_told": _of_told}, seed=seed)


def _means(rows: Numbers, seed: int) -> dict[str, Any]:
    metrics = {name: mean_of(name) for name in rows.values}
    return {"n": len(rows), **intervals(rows, metrics, seed=seed)}


def _of_told(rows: Numbers, weights: Array | None = None) -> Array:
    new, old = (weighted_mean(rows.values[name], weights) for name in ("new", "old"))
    return np.nan_to_num(ratio(new, new + old), nan=0.5)
