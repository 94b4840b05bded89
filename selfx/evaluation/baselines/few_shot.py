"""Questions that begin with others and their true answers, for a model that was not trained."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from selfx.tasks.example import SLOT, Example

SHOTS = 4
"""How many come first."""


def with_shots(
    train: Sequence[Example], test: Sequence[Example], shots: int, *, seed: int = 0
) -> list[Example]:
    """The test examples, each asked after some training examples of its cell, drawn by seed.

    A cell with fewer takes from all. Question and answer stand on lines of their own, the vectors
    of all at their places; each is asked in its first wording.
    """
    cells: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        cells[example.cell].append(example)
    found = []
    for number, example in enumerate(test):
        rng = np.random.default_rng((seed, number))
        own = cells[example.cell]
        pool = own if len(own) >= shots else train
        rows = rng.choice(len(pool), min(shots, len(pool)), replace=False)
        found.append(_after([pool[row] for row in rows], example))
    return found


def first_line(answer: str) -> str:
    """What is said before the model goes on to a next question of its own."""
    return answer.split("\n", maxsplit=1)[0].strip()


def _after(shots: Sequence[Example], example: Example) -> Example:
    """The example, asked after the others."""
    asked = (*shots, example)
    held = [each.vectors for each in asked if each.vectors is not None]
    opened = [f"{_slots(e, e.openings[0])} {e.answer}" for e in shots if e.openings]
    told = [f"{_slots(e, e.question)}\n{e.answer}" for e in shots]
    openings = ([*opened, _slots(example, example.openings[0])],) if example.openings else ()
    return dataclasses.replace(
        example,
        questions=("\n\n".join([*told, _slots(example, example.question)]),),
        openings=tuple("\n\n".join(lines) for lines in openings),
        vectors=np.concatenate(held) if held else None,
        layers=tuple(layer for each in asked for layer in each.layers),
    )


def _slots(example: Example, text: str) -> str:
    """A text with a place for each of its example's vectors."""
    several = 1 if example.vectors is None else len(example.vectors)
    return text.replace(SLOT, SLOT * several) if text.count(SLOT) == 1 else text
