"""Grids: a number for each pair that a cell names, such as a kind of token × a span of layers.

A cell is called `subject_last × 8-15` or `lens × layer 12`; what stands after the last `×` goes
across, the rest goes down. The number tells, a shade helps, and how many questions it is from
stands below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = 10
FEW = 10
ACROSS = 16
DOWN = 40

_ORDER = ("subject_first", "subject_last", "relation", "last")
_LAYERS = re.compile(r"(?:layers? )?(\d+(?:-\d+)?)")

Row = dict[str, Any]


@dataclass(frozen=True)
class Square:
    """A grid's number.

    Attributes:
        share: from 0 to 1.
        n: how many questions it is the mean of.
    """

    share: float
    n: int

    @property
    def step(self) -> int:
        """The strength of the shade, from 0 to 10."""
        return min(max(round(STEPS * self.share), 0), STEPS)

    @property
    def few(self) -> bool:
        """Whether it is from so few that it says little."""
        return self.n < FEW


@dataclass(frozen=True)
class Grid:
    """A titled grid.

    Attributes:
        title: what its numbers are.
        corner: what goes across.
        columns: their names.
        lines: a name and a square a column, None where there is no question.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Square | None, ...]], ...]

    @property
    def broad(self) -> bool:
        """Whether it needs a line to itself."""
        return len(self.columns) > 6


def grid(title: str, cells: Mapping[str, Sequence[Row]], value: Callable[[Row], float]) -> Grid:
    """Returns the grid of a value's means.

    Where more would go across than a page holds, what goes across and down are exchanged; of more
    than 40 lines it has those with most questions.
    """
    squares = {
        _pair(name): Square(sum(map(value, rows)) / len(rows), len(rows))
        for name, rows in cells.items()
    }
    down, across = ({pair[side] for pair in squares} for side in (0, 1))
    if turned := len(across) > ACROSS >= len(down):
        squares = {(second, first): square for (first, second), square in squares.items()}
        down, across = across, down
    size = {name: sum(s.n for (one, _), s in squares.items() if one == name) for name in down}
    largest = sorted(down, key=lambda name: (-size[name], by_number(name)))[:DOWN]
    columns = sorted(across, key=_place)
    corner, heads = ("", columns) if turned else _heads(columns)
    return Grid(
        title,
        corner,
        tuple(heads),
        tuple(
            (name, tuple(squares.get((name, column)) for column in columns))
            for name in sorted(largest, key=_place)
        ),
    )


def is_grid(cells: Mapping[str, Sequence[Row]]) -> bool:
    """Returns whether the cells are pairs, and enough of them for a grid."""
    return len(cells) > 3 and all(" × " in name for name in cells)


def by_number(name: str) -> list[tuple[int, str]]:
    """Returns a sorting key that puts "8-15" before "16-23"."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def in_cells(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each cell."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    return cells


def _pair(name: str) -> tuple[str, str]:
    first, _, second = name.rpartition(" × ")
    return first, second


def _place(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Returns a sorting key: places in a text as they come in it, all else by name and number."""
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), by_number(name))


def _heads(columns: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Returns what goes across and the columns' names, "Layers" said once where all are layers."""
    found = [_LAYERS.fullmatch(column) for column in columns]
    if all(found):
        return "Layers", [match[1] for match in found if match]
    return "", columns
