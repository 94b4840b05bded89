"""Texts of different lengths in a few fixed shapes, so that a few compiled programs serve all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def bucket(length: int) -> int:
    """The width to pad `length` tokens to: multiples of 8, coarser beyond 128."""
    step = max(8, 2 ** (max(length - 1, 8).bit_length() - 4))
    return -(-max(length, 1) // step) * step


def rows_for(count: int, size: int) -> int:
    """How many rows to run for `count` real ones, at most `size`: all of them or a quarter."""
    quarter = max(size // 4, 1)
    return quarter if count <= quarter else size


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def repeat_last(rows: Sequence[T], count: int) -> list[T]:
    """`rows` brought to `count` by repeating the last one."""
    return [*rows, *[rows[-1]] * (count - len(rows))]


def pad(rows: Sequence[Sequence[int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 `[count, t]` padded on the right, and the mask `[count, t]` of real ones."""
    rows = repeat_last(rows, count)
    width = bucket(max(map(len, rows)))
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(width) < lengths[:, None]
    tokens = np.zeros((count, width), np.int32)
    tokens[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return tokens, mask
