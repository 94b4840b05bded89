"""Charts of curves and points, in a drawing's own coordinates: what `plots.html.j2` draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LEFT, TOP, WIDTH, HEIGHT, MARGIN = 48, 34, 300, 240, 150
APART = 15
"""How far apart the names of curves must stand."""
LETTERS = 24
"""How much of a name there is room for; its end tells the most."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low: where it begins.
        high: where it ends.
        ticks: numbers and how they are written.
        log: whether equal steps are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Returns how far along a value is, from 0 to 1; what is outside stands at the end."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Curve:
    """A line, points, or both.

    Attributes:
        name: written at its end, if `shown`.
        style: `own`, `other` or `ideal`.
        line: the points that it goes through.
        points: marks, each with what its title says.
        bars: `(x, low, high)` of intervals.
        shown: whether its name is written.
    """

    name: str
    style: str
    line: Sequence[Point] = ()
    points: Sequence[tuple[float, float, str]] = ()
    bars: Sequence[tuple[float, float, float]] = field(default=())
    shown: bool = True


def percents(low: float, high: float) -> Scale:
    """Returns a scale of percentages that holds two shares, from 0 or below to 25 at least."""
    first, last = min(math.floor(4 * low), 0), max(math.ceil(4 * high), 1)
    return Scale(first / 4, last / 4, tuple((i / 4, str(25 * i)) for i in range(first, last + 1)))


def counts(numbers: Sequence[float]) -> Scale:
    """Returns a scale of ratios, with a tick at each of some numbers that has room."""
    low, high = min(numbers), max(numbers)
    if low == high:
        low, high = low / 2, high * 2
    scale = Scale(low / 1.15, high * 1.15, (), log=True)
    ticks: list[float] = []
    for number in sorted(set(numbers)):
        if not ticks or scale(number) - scale(ticks[-1]) > 0.13:
            ticks.append(number)
    return Scale(scale.low, scale.high, tuple((n, f"{n:,.0f}") for n in ticks), log=True)


def picture(
    title: str, curves: Sequence[Curve], x: Scale, y: Scale, below: str, above: str
) -> dict[str, Any]:
    """Returns everything that is drawn, in the drawing's coordinates."""

    def at(point: Sequence[Any]) -> Point:
        return LEFT + WIDTH * x(point[0]), TOP + HEIGHT * (1 - y(point[1]))

    drawn = [
        {
            "name": curve.name if len(curve.name) <= LETTERS else f"…{curve.name[1 - LETTERS :]}",
            "style": curve.style,
            "line": [at(point) for point in curve.line],
            "points": [(*at(point), point[2]) for point in curve.points],
            "bars": [
                (at((p, low))[0], at((p, low))[1], at((p, high))[1]) for p, low, high in curve.bars
            ],
            "sizes": [4.5] * len(curve.points),
            "named": None,
        }
        for curve in curves
    ]
    _name([each for each, curve in zip(drawn, curves, strict=True) if curve.shown])
    return {
        "title": title,
        "width": LEFT + WIDTH + MARGIN,
        "height": TOP + HEIGHT + 46,
        "left": LEFT,
        "right": LEFT + WIDTH,
        "top": TOP,
        "bottom": TOP + HEIGHT,
        "across": [{"at": at((n, y.low))[0], "name": name} for n, name in x.ticks],
        "down": [{"at": at((x.low, n))[1], "name": name} for n, name in y.ticks],
        "below": below,
        "above": above,
        "curves": drawn,
    }


def _name(drawn: Sequence[dict[str, Any]]) -> None:
    """Puts each curve's name beside its last point, below the one before where they would meet."""
    ends = [(max(each["line"] or each["points"], key=lambda p: p[0]), each) for each in drawn]
    height = -math.inf
    for end, each in sorted(ends, key=lambda pair: pair[0][1]):
        height = max(end[1] + 4, height + APART)
        each["named"] = (round(LEFT + WIDTH + 8), round(height), "start")
