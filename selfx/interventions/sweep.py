"""Exact grids of activation patching: every layer, position and head, one patch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.interventions.cells import measure, prepare, unit_axis
from selfx.interventions.metric import Metric
from selfx.models.decoder import Decoder
from selfx.models.sites import Site, find
from selfx.models.tap import Array, check_layers

UNIT_NAMES = {"h": "head", "k": "key/value head", "f": "neuron", "x": "expert"}


@dataclasses.dataclass(frozen=True)
class Grid:
    """The metric under every patch.

    Attributes:
      site: where was patched.
      axes: the names of the axes of `values`.
      values: float32 `[b, l, p]`, or `[b, l, p, units]`; not a number where a row, or its source,
        has no such position.
      layers: the layers along `l`; `(0,)` at sites outside the layers.
      positions: int `[b, p]`.
      base: float32 `[b]`, the metric of the base run.
      source: float32 `[b]`, the metric of the source run.
    """

    site: str
    axes: tuple[str, ...]
    values: np.ndarray
    layers: tuple[int, ...]
    positions: np.ndarray
    base: np.ndarray
    source: np.ndarray

    @property
    def effect(self) -> np.ndarray:
        """How far each patch moves the metric."""
        return self.values - self._column(self.base)

    @property
    def restored(self) -> np.ndarray:
        """The same as a share of the way from base to source: 0 is no effect, 1 all of it."""
        return self.effect / self._column(self.source - self.base)

    def _column(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(-1, *(1,) * (self.values.ndim - 1))


def sweep(
    model: Decoder,
    tokens: Array,
    metric: Metric,
    *,
    source: Array,
    site: str = "resid_post",
    layers: Any = None,
    positions: Any = None,
    source_positions: Any = None,
    split: bool = False,
    mask: Array | None = None,
    source_mask: Array | None = None,
    reuse: bool = True,
    batch_size: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
) -> Grid:
    """The metric of the base run with the source run's activation put in at each place of a grid.

    Activation patching as in Vig et al. 2020 (arXiv 2004.12265) and Meng et al. 2022 (arXiv
    2202.05262), every cell run for real. The order of texts decides what it shows: the clean text
    as `source` finds what suffices, the corrupted one what is needed (arXiv 2309.16042).

    Args:
      model: the weights.
      tokens: int `[b, t]`, the base texts.
      metric: `[b]` from logits `[b, v]` after each row's last token, such as
        `selfx.logit_difference(answers, others)`; any function of jax that treats rows apart.
      source: int `[b, t]`, the text that each row is patched from.
      site: a name in `selfx.models.sites`.
      layers: those of the grid, or None for all.
      positions: int `[p]`, or `[b, p]` for other ones in every row, or None for all.
      source_positions: where to read in the source instead of at the same positions.
      split: patch every head (or neuron, where a site has them) by itself, a further axis.
      mask: bool `[b, t]`, True at real tokens; the grid's positions count those.
      source_mask: the same of `source`.
      reuse: start each run at its patched position, from the base run's keys and values. Without
        it one program serves the whole grid; with it, one for every halving of the text.
      batch_size: rows of one run (texts times cells); results do not depend on it.
      progress: called with (cells done, cells in all, a note).

    Raises:
      SelfxError: an unknown site; layers, positions or tokens that are not there; a metric that
        does not give a number a row.
    """
    about = find(site, model.config)
    chosen = _layers(layers, model, site)
    if split and not unit_axis(about):
        raise SelfxError(f"split=True at {site!r}", expected="a site with heads or neurons")
    runs = prepare(
        model,
        tokens,
        metric,
        source=source,
        site=site,
        positions=positions,
        source_positions=source_positions,
        mask=mask,
        source_mask=source_mask,
        reuse=reuse,
    )
    cells = _cells(chosen, runs.positions.shape[1], about, model, split)
    found = measure(
        model, metric, runs, site, cells, split=split, batch_size=batch_size, progress=progress
    )
    values = np.moveaxis(
        found.reshape(len(chosen), runs.positions.shape[1], -1, len(tokens)), -1, 0
    )
    names = ("row", "layer", "position")
    return Grid(
        site=site,
        axes=(*names, UNIT_NAMES[unit_axis(about)]) if split else names,
        values=values if split else values[..., 0],
        layers=chosen,
        positions=np.asarray(runs.positions),
        base=np.asarray(runs.base),
        source=np.asarray(runs.source),
    )


def _cells(
    layers: tuple[int, ...], columns: int, site: Site, model: Decoder, split: bool
) -> np.ndarray:
    """int `[n, 3]`: layer, column, head or neuron, in the order of a grid's axes."""
    units = site.feature_shape(model.config)[0] if split else 1
    cells = np.indices((len(layers), columns, units)).reshape(3, -1).T
    return np.column_stack([np.array(layers)[cells[:, 0]], cells[:, 1:]])


def _layers(layers: Any, model: Decoder, site: str) -> tuple[int, ...]:
    if not find(site).layered:
        if layers is not None:
            check_layers([0], model.config, False, site)
        return (0,)
    every = range(model.config.n_layers)
    chosen = tuple(np.atleast_1d(list(every) if layers is None else np.asarray(layers)).tolist())
    check_layers(chosen, model.config, True, site)
    if not chosen:
        raise SelfxError("no layers", expected=f"some from 0 to {len(every) - 1}")
    return chosen
