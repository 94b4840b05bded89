"""Which candidates to keep: as many changed as unchanged, and no kind of experiment too often."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

CELL_EXCESS = 2.0
"""How far above an even share a cell may rise, within each class of each split."""
LARGEST_CLASS = 0.6
"""How much of a split one class may fill where the other runs short."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What choosing looks at in a candidate."""

    split: str
    cell: str
    changed: bool


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many to choose.

    Attributes:
      train, test: examples wanted in each split.
      cells: how many kinds of experiment there are.
      balanced: whether changed and unchanged ones are to be as many.
    """

    train: int
    test: int
    cells: int
    balanced: bool = True

    def of(self, split: str) -> int:
        """Examples wanted in `split`."""
        return self.train if split == "train" else self.test

    @property
    def total(self) -> int:
        """Examples wanted in all."""
        return self.train + self.test


def quota(limit: int, test_share: float, cells: int) -> Quota:
    """`limit` examples, of which `test_share` are held out."""
    test = round(limit * test_share)
    return Quota(limit - test, test, cells)


def choose(kinds: Sequence[Kind], wanted: Quota, *, last: bool = False) -> list[int]:
    """Indices of the candidates to keep, in their order; the first that fit are taken.

    Args:
      kinds: of every candidate so far.
      wanted: how many.
      last: there will be no more, so fill up: first beyond the cells' shares, then with the class
        that there is more of.
    """
    taken: dict[int, None] = {}
    counts: Counter[Any] = Counter()
    for even, capped in ((True, True), *(((True, False), (False, False)) if last else ())):
        for index, kind in enumerate(kinds):
            if index not in taken and _fits(kind, counts, wanted, even, capped):
                taken[index] = None
                counts.update(_keys(kind))
    return sorted(taken)


def summary(kinds: Sequence[Kind]) -> dict[str, Any]:
    """Counts of each split's classes and cells, as `trace.json` shows them."""
    return {split: _summary([k for k in kinds if k.split == split]) for split in ("train", "test")}


def _summary(kinds: Sequence[Kind]) -> dict[str, Any]:
    cells: dict[str, dict[str, int]] = {}
    for kind in kinds:
        entry = cells.setdefault(kind.cell, {"unchanged": 0, "changed": 0})
        entry["changed" if kind.changed else "unchanged"] += 1
    changed = sum(kind.changed for kind in kinds)
    return {
        "unchanged": len(kinds) - changed,
        "changed": changed,
        "cells": dict(sorted(cells.items())),
    }


def _keys(kind: Kind) -> tuple[Any, ...]:
    return kind.split, (kind.split, kind.changed), kind


def _fits(kind: Kind, counts: Counter[Any], wanted: Quota, even: bool, capped: bool) -> bool:
    size = wanted.of(kind.split)
    if not wanted.balanced:
        return counts[kind.split] < size
    odd = size % 2 if kind.changed else 0
    room = size // 2 + odd if even else math.ceil(LARGEST_CLASS * size)
    cap = math.ceil(CELL_EXCESS * size / 2 / max(wanted.cells, 1))
    return (
        counts[kind.split] < size
        and counts[kind.split, kind.changed] < room
        and (not capped or counts[kind] < cap)
    )
