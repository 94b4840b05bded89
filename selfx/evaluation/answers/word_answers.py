"""Answers that are a word or a few, right or wrong by themselves.

They are compared as `selfx.tasks.plain_words.bare` has it: casefolded, each stretch of white space
one space, punctuation and white space left out at both ends.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import WORDS
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.statistics.rows import Numbers, Rows
from selfx.tasks.plain_words import bare
from selfx.tasks.reading_model import lens_words
from selfx.tasks.reading_questions import LISTED, listed

if TYPE_CHECKING:
    from selfx.tasks.example import Example
    from selfx.weights.load import LanguageModel

_READABLE = {"here": 1, "next": 1, "lens": LISTED}
"""How many words a head answers of what can be read off the vector alone."""


class WordAnswers:
    """Tells which answers are the true words."""

    kind = WORDS

    def rate(self, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Rows]:
        """Returns the outcomes of each run."""
        return [*self._numbers(examples, answered)]

    def elsewhere(self, data: Path, split: str, examples: Sequence[Example]) -> WordAnswers:
        """Returns itself: the truth is in the examples."""
        return self

    def columns(
        self, examples: Sequence[Example], answered: Sequence[Answered]
    ) -> Iterator[dict[str, Any]]:
        """Yields the kind of question, and how right each answer is."""
        for numbers in self._numbers(examples, answered):
            for row, example in enumerate(examples):
                right = {name: bool(column[row]) for name, column in numbers.values.items()}
                exact = right.pop("exact_match")
                yield {"ask": example.details["ask"], "exact": exact, **right}

    def record(self) -> dict[str, Any]:
        """Returns nothing: the answers say all."""
        return {}

    def attached(self, examples: Sequence[Example], run: Answered) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def _numbers(self, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Numbers]:
        groups = np.array([example.group for example in examples], dtype=object)
        return [Numbers(_rated(examples, run.answers), groups) for run in answered]


BY_WORDS = WordAnswers()


def majority_words(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns the train split's most frequent answer, once for each test example."""
    return _constants(train, test, lambda example: "")


def majority_words_per_cell(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns for each test example the most frequent answer of its cell in the train split.

    A cell that the train split lacks gets the constant of the whole split.
    """
    return _constants(train, test, lambda example: example.cell)


def majority_words_per_ask(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns for each test example the most frequent answer to its kind of question."""
    return _constants(train, test, lambda example: example.details["ask"])


def head_words(base: LanguageModel, test: Sequence[Example]) -> list[str]:
    """Returns what a model's head reads from each example's last vector, no layer in between.

    One word, or three where a list is asked for; nothing where the vector alone does not tell, or
    is of another width. It means something where `base` is the target itself, and of `lens` it is
    then the truth.
    """
    vectors = np.stack([example.vector for example in test if example.vector is not None])
    if vectors.shape[1] != base.config.d_model:
        return [""] * len(test)
    words = lens_words(base.model, base.tokenizer, vectors, LISTED)
    counts = (_READABLE.get(example.details["ask"], 0) for example in test)
    return [listed(some[:count]) for some, count in zip(words, counts, strict=True)]


def _constants(
    train: Sequence[Example], test: Sequence[Example], key: Callable[[Example], str]
) -> list[str]:
    """Returns the most frequent training answer under each test example's key, else of all."""
    told: dict[str, list[str]] = defaultdict(list)
    for example in train:
        told[key(example)].append(example.answer)
    every = _commonest([example.answer for example in train])
    known = {name: _commonest(answers) for name, answers in told.items()}
    return [known.get(key(example), every) for example in test]


def _commonest(answers: Sequence[str]) -> str:
    """Returns the most frequent of some answers, the first seen of several."""
    best = Counter(map(bare, answers)).most_common(1)[0][0]
    return next(answer for answer in answers if bare(answer) == best)


def _rated(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, np.ndarray]:
    if len(examples) != len(answers):
        raise SelfxError(
            f"{len(answers)} answers to {len(examples)} examples",
            expected="one answer for each example, in the same order",
        )
    pairs = [(bare(e.answer), bare(answer)) for e, answer in zip(examples, answers, strict=True)]
    return {
        "exact_match": np.array([true == said for true, said in pairs], float),
        "first": np.array([_first(true) == _first(said) for true, said in pairs], float),
        "parsed": np.array([said != "" for _, said in pairs], float),
    }


def _first(text: str) -> str:
    """Returns the first word of a bare text, up to white space or a comma."""
    return bare(re.split(r"[\s,]", text, maxsplit=1)[0])
