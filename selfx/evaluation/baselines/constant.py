"""Explainers that read no activation and no question: the constant answers to beat.

The constant is the one answer that scores the highest exact match on the train split: the most
frequent pair of verdict and content (ties go to the pair seen first). Its verdict need not be the
majority verdict: a common unchanged content can beat a majority of changes that all differ.
`by="verdict"` fixes the majority verdict first and then takes that verdict's most frequent content;
it is the stronger rival on the has-changed score.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from selfx.errors import SelfxError
from selfx.evaluation.answers.parsing import normalise

if TYPE_CHECKING:
    from selfx.tasks.example import Example

By = Literal["answer", "verdict"]


def majority(train: Sequence[Example], test: Sequence[Example], *, by: By = "answer") -> list[str]:
    """Returns the train split's best constant answer, once for each test example."""
    return [_constant(train, by)] * len(test)


def majority_per_cell(
    train: Sequence[Example], test: Sequence[Example], *, by: By = "answer"
) -> list[str]:
    """Returns for each test example the best constant answer of its cell in the train split.

    A cell that the train split lacks gets the constant of the whole split.
    """
    fallback = _constant(train, by)
    cells: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        cells[example.cell].append(example)
    constants = {cell: _constant(members, by) for cell, members in cells.items()}
    return [constants.get(example.cell, fallback) for example in test]


Baseline = Callable[[Sequence["Example"], Sequence["Example"]], list[str]]
BASELINES: dict[str, Baseline] = {
    "majority": majority,
    "majority-per-cell": majority_per_cell,
    "majority-verdict-per-cell": functools.partial(majority_per_cell, by="verdict"),
}


def get_baseline(name: str) -> Baseline:
    """Returns the baseline of that name."""
    if name not in BASELINES:
        raise SelfxError(f"baseline {name!r}", expected=f"one of {', '.join(BASELINES)}")
    return BASELINES[name]


def _constant(train: Sequence[Example], by: By) -> str:
    """Returns the text of the most frequent answer."""
    if not train:
        raise SelfxError(
            "an empty train split",
            expected="train examples to take the majority of",
            hint="a trace folder with train-*.parquet",
        )
    if by == "verdict":
        verdict = Counter(example.changed for example in train).most_common(1)[0][0]
        train = [example for example in train if example.changed == verdict]
    best = Counter(map(_says, train)).most_common(1)[0][0]
    return next(example.answer for example in train if _says(example) == best)


def _says(example: Example) -> tuple[bool, str]:
    return example.changed, normalise(example.content)
