"""What the target's scores *with* a hint say of its answer without one; no model is asked.

A hint moves the scores of the letters by much the same in every question. Taken away, what is left
leans towards what would have been answered: an explainer that knows less than this explains nothing
that the target's own output does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selfx.tasks.graded import WITH, WITHOUT
from selfx.tasks.questions import LETTERS
from selfx.tasks.wording import answer_content, word

if TYPE_CHECKING:
    from selfx.tasks.example import Example


def shifted_scores(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Returns for each the answer that its scores with the hint give, once what that hint adds on
    average is taken away.

    What each hint adds, and the letters' own levels, are means over training examples.
    """
    before, after = scores_of(train, WITHOUT), scores_of(train, WITH)
    hints = np.array([_hint(example) for example in train])
    gaps = {hint: (before - after)[hints == hint].mean(axis=0) for hint in set(hints.tolist())}
    gap = (before - after).mean(axis=0)
    guessed = np.stack([gaps.get(_hint(example), gap) for example in test]) + scores_of(test, WITH)
    return by_scores(guessed - level(train), test)


def level(train: Sequence[Example]) -> np.ndarray:
    """The letters' own scores `[4]`, above which the highest is the answer: their means where the
    target's answers were calibrated, else nothing."""
    if all(example.details.get("format") == "letters" for example in train):
        return np.zeros(len(LETTERS))
    return scores_of(train, WITHOUT).mean(axis=0)


def by_scores(scores: np.ndarray, test: Sequence[Example]) -> list[str]:
    """Returns the answers that the letters' scores `[n, 4]` without a hint give, the letter with it
    being known."""
    letters = [LETTERS[n] for n in scores.argmax(axis=1)]
    return [
        word(letter != example.details["random_hint_prediction"].strip(), answer_content(letter))
        for letter, example in zip(letters, test, strict=True)
    ]


def scores_of(examples: Sequence[Example], name: str) -> np.ndarray:
    """The letters' scores in one of the trace's columns; float64 `[n, 4]`."""
    return np.array([example.details[name] for example in examples], np.float64)


def _hint(example: Example) -> str:
    return str(example.details["hint"])
