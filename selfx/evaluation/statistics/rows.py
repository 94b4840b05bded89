"""What one explainer did on some examples, a row for each: all that an interval asks of it.

A metric takes `(rows, weights=None)`. Weights are `[n]` for one score or `[r, n]` for `r` scores at
once; without them each example counts once. Over no examples (or zero weight) a metric is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError

Array = NDArray[np.float64]
Metric = Callable[[Any, Array | None], Array]


class Rows(Protocol):
    """Outcomes on `n` examples, in any form that metrics can read."""

    @property
    def group(self) -> NDArray[Any] | None:
        """`[n]` the cluster of each example, or None where examples are independent."""
        ...

    def __len__(self) -> int: ...

    def columns(self) -> dict[str, NDArray[Any]]:
        """Returns all that metrics look at, each `[n]`; rows equal in these may be merged."""
        ...

    def truth(self) -> NDArray[Any] | None:
        """Returns `[n]` what any explainer's rows on the same examples have in common, if held."""
        ...

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Returns some of the rows, without their groups."""
        ...

    def join(self, other: Any) -> Self:
        """Returns these rows and then those of another, without their groups."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Scores that are numbers.

    Attributes:
        values: `{name: [n]}`, all finite.
        group: `[n]` the cluster of each example, or None where examples are independent.
    """

    values: Mapping[str, Array]
    group: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        check_lengths({**self.values, "group": self.group})
        for name, column in self.values.items():
            if not np.isfinite(column).all():
                raise SelfxError(f"a {name} that is no number", expected="a score for each example")

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Returns the values."""
        return dict(self.values)

    def truth(self) -> None:
        """Returns nothing: scores do not say what of."""

    def take(self, rows: NDArray[np.intp]) -> Numbers:
        """Returns some of the rows, without their groups."""
        return Numbers({name: column[rows] for name, column in self.values.items()})

    def join(self, other: Numbers) -> Numbers:
        """Returns these rows and then those of another, without their groups."""
        pairs = {name: (column, other.values[name]) for name, column in self.values.items()}
        return Numbers({name: np.concatenate(pair) for name, pair in pairs.items()})

    def best(self, other: Numbers) -> Numbers:
        """Returns for each example and each score the higher of the two: what an oracle picks."""
        pairs = {name: (column, other.values[name]) for name, column in self.values.items()}
        return Numbers({name: np.maximum(*pair) for name, pair in pairs.items()}, self.group)


def mean_of(name: str) -> Metric:
    """Returns the metric that is the mean of one of the numbers."""

    def mean(rows: Numbers, weights: Array | None = None) -> Array:
        return weighted_mean(rows.values[name], weights)

    return mean


def weighted_mean(column: NDArray[Any], weights: Array | None) -> Array:
    """Returns the mean of a column `[n]`, one for each row of weights."""
    weights = as_weights(len(column), weights)
    return ratio(weights @ column.astype(np.float64), weights.sum(-1))


def as_weights(n: int, weights: Array | None) -> Array:
    """Returns the weights, ones where there are none."""
    return np.ones(n) if weights is None else np.asarray(weights, np.float64)


def ratio(part: Any, whole: Any) -> Array:
    """Returns part / whole, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    nowhere = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.divide(part, whole, out=nowhere, where=whole > 0)[()]


def check_lengths(columns: Mapping[str, NDArray[Any] | None]) -> None:
    """Raises SelfxError where columns are of different lengths."""
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        raise SelfxError(f"columns of lengths {lengths}", expected="one length for all")
