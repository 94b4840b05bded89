"""Estimated effects beside exact ones: some cells drawn from the same grids, and run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import struct

from selfx.interventions.cells import measure, prepare, unit_axis
from selfx.interventions.metric import Metric
from selfx.models.decoder import Decoder
from selfx.models.sites import find
from selfx.models.tap import Array


@struct.dataclass
class Check:
    """How far estimates are from cells that were run.

    Attributes:
      cells: (site, layer, position, head or neuron, or -1 for all of them).
      exact: float32 `[n, b]`, the true effects; not a number where a row has no such place.
      estimate: float32 `[n, b]`.
      rank_correlation: Spearman's, over all cells and rows; not a number below two.
      worst_error: the largest difference, in the metric's own unit.
    """

    cells: tuple[tuple[str, int, int, int], ...] = struct.field(pytree_node=False)
    exact: np.ndarray
    estimate: np.ndarray
    rank_correlation: float
    worst_error: float


def compare(
    model: Decoder,
    tokens: Array,
    metric: Metric,
    texts: Mapping[str, Any],
    effects: Mapping[str, jax.Array],
    *,
    count: int,
    seed: int,
    batch_size: int,
) -> Check:
    """Cells drawn from the grids of `effects`, run in every row.

    Args:
      model: the weights.
      tokens: the base texts.
      metric: as in `selfx.sweep`.
      texts: `source`, `mask` and `source_mask`, as in `selfx.sweep`.
      effects: `{site: [b, l, t]}` or `[b, l, t, units]`, estimated.
      count: how many cells, at most as many as there are.
      seed: of the draw.
      batch_size: rows of one run.
    """
    mask = texts.get("mask")
    longest = tokens.shape[1] if mask is None else int(np.asarray(mask).sum(axis=1).max())
    grids = {site: np.asarray(grid)[:, :, :longest] for site, grid in effects.items()}
    cells, exact, guess = _drawn(grids, count, seed), [], []
    for site, grid in grids.items():
        own = np.array([cell[1:] for cell in cells if cell[0] == site], int)
        if not len(own):
            continue
        runs = prepare(model, tokens, metric, site=site, **texts)
        split = bool(unit_axis(find(site)))
        settings: dict[str, Any] = {"split": split, "batch_size": batch_size}
        after = measure(model, metric, runs, site, np.maximum(own, 0), **settings)
        exact.append(after - np.asarray(runs.base))
        guess.append(grid[(slice(None), *own.T[: grid.ndim - 1])].T)
    truth, estimate = np.concatenate(exact), np.concatenate(guess)
    known = ~np.isnan(truth)
    return Check(
        cells=tuple(cells),
        exact=truth,
        estimate=np.where(known, estimate, np.nan),
        rank_correlation=rank_correlation(truth[known], estimate[known]),
        worst_error=float(np.abs(truth - estimate)[known].max(initial=0)),
    )


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two lists; values that tie share their mean rank."""
    if len(one) < 2:
        return float("nan")
    ranks = [_ranks(x) - (len(x) - 1) / 2 for x in (one, other)]
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float(ranks[0] @ ranks[1] / scale) if scale else float("nan")


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 0, float64."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def _drawn(
    grids: Mapping[str, np.ndarray], count: int, seed: int
) -> list[tuple[str, int, int, int]]:
    """Different cells, each equally likely, site by site."""
    sizes = np.array([grid[0].size for grid in grids.values()])
    chosen = np.random.default_rng(seed).choice(sizes.sum(), min(count, sizes.sum()), False)
    cells = []
    for (site, grid), end, size in zip(grids.items(), sizes.cumsum(), sizes, strict=True):
        own = np.sort(chosen[(chosen < end) & (chosen >= end - size)]) - (end - size)
        for cell in zip(*np.unravel_index(own, grid.shape[1:]), strict=True):
            layer, position, unit = (*map(int, cell), -1)[:3]
            cells.append((site, layer, position, unit))
    return cells
