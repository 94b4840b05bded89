"""Single patches from a source run into a base run, many at once: the cells of a sweep's grid.

Of the base only the part from the patched position on runs again: the keys and values before it
cannot change. A batch of cells is one compiled program, whatever its layers, positions and heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.batching import chunks, pad, repeat_last
from selfx.interventions.build import patch
from selfx.interventions.metric import Metric, as_tree, check_metric
from selfx.interventions.reuse import before
from selfx.models import cache as caches
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, check_text, forward
from selfx.models.sites import Site, find
from selfx.models.tap import Array, At

UNITS = "hkfx"
"""Axes whose members are patched apart on request: heads, key/value heads, neurons, experts."""
SHORTEST = 8
"""The shortest run that a program is compiled for; the next are twice as long."""


@struct.dataclass
class Runs:
    """A base run to be patched, and what is to be patched into it.

    Attributes:
      tokens: int32 `[b, t]`, the base texts without padding before their last token.
      lengths: int32 `[b]`.
      cache: the base run's keys and values, or None to run it whole each time.
      positions: int32 `[b, p]`, where the base can be patched.
      known: bool `[b, p]`, whether base and source have that position.
      states: `[l, b, p, *feature]`, what the source run has there.
      base: float32 `[b]`, the metric of the base run.
      source: float32 `[b]`, that of the source run.
    """

    tokens: jax.Array
    lengths: jax.Array
    cache: Cache | None
    positions: jax.Array
    known: jax.Array
    states: jax.Array
    base: jax.Array
    source: jax.Array


def unit_axis(site: Site) -> str:
    """The letter of the axis whose members can be patched apart, or an empty string."""
    return site.axes[0] if site.axes[0] in UNITS else ""


def prepare(
    model: Decoder,
    tokens: Array,
    metric: Metric,
    *,
    source: Array,
    site: str,
    positions: Any = None,
    source_positions: Any = None,
    mask: Array | None = None,
    source_mask: Array | None = None,
    reuse: bool = True,
) -> Runs:
    """Both runs, once; arguments as in `selfx.sweep`."""
    texts, others = _compact(tokens, mask), _compact(source, source_mask)
    rows = len(texts)
    if len(others) != rows:
        raise SelfxError(f"{len(others)} source rows for {rows} base rows", expected="as many")
    _check_ids((*texts, *others), model.config.vocab_size)
    check_metric(metric, rows, model.config.vocab_size)
    padded = pad((*texts, *others), 2 * rows)  # of one width, so that source axes agree
    lengths = np.array([len(text) for text in (*texts, *others)], np.int32)
    places = _grid(positions, lengths[:rows], "position")
    given = positions if source_positions is None else source_positions
    origins = _grid(given, lengths[:rows] if given is None else lengths[rows:], "source position")
    if places.shape != origins.shape:
        raise SelfxError(
            f"{origins.shape[1]} source positions for {places.shape[1]} positions",
            expected="as many",
        )
    about = find(site, model.config)
    return _runs(
        model,
        as_tree(metric),
        *padded,
        lengths,
        places,
        origins,
        site=about.name,
        reuse=reuse and "s" not in about.axes,  # a cache gives the source axis other slots
    )


def measure(
    model: Decoder,
    metric: Metric,
    runs: Runs,
    site: str,
    cells: np.ndarray,
    *,
    split: bool = False,
    batch_size: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
) -> np.ndarray:
    """float32 `[n, b]`: the metric of the base run with each cell patched, all rows at once.

    Args:
      model: the weights.
      metric: as in `selfx.sweep`.
      runs: of `prepare`.
      site: where to patch.
      cells: int `[n, 3]`: layer, column of `runs.positions`, head or neuron.
      split: patch that head or neuron only, instead of all.
      batch_size: rows of one run.
      progress: called with (cells done, cells in all, a note).
    """
    found = np.zeros((len(cells), len(runs.lengths)), np.float32)
    at_once = max(1, batch_size // len(runs.lengths))
    done = 0
    for width, several in _by_width(runs, cells):
        for part in chunks(several, at_once):
            chosen = cells[repeat_last(list(part), at_once)].astype(np.int32)
            got = _cells(model, as_tree(metric), runs, chosen, site=site, width=width, split=split)
            found[list(part)] = np.asarray(got)[: len(part)]
            done += len(part)
            if progress is not None:
                progress(done, len(cells), "")
    return found


def _by_width(runs: Runs, cells: np.ndarray) -> list[tuple[int, list[int]]]:
    """Indices of cells by how many tokens have to run: all, or half, a quarter ... of them."""
    whole = runs.tokens.shape[1]
    if runs.cache is None:
        return [(whole, list(range(len(cells))))]
    left = np.asarray(runs.lengths)[:, None] - np.asarray(runs.positions)
    left = np.clip(left, 1, whole).max(axis=0)[cells[:, 1]]
    widths = [whole]
    while widths[-1] > SHORTEST:
        widths.append(max(SHORTEST, -(-widths[-1] // 2)))
    wanted = np.array([min(width for width in widths if width >= need) for need in left], int)
    return [(width, np.flatnonzero(wanted == width).tolist()) for width in sorted(set(wanted))]


@functools.partial(jax.jit, static_argnames=("site", "reuse"))
def _runs(
    model: Decoder,
    metric: Metric,
    tokens: jax.Array,
    mask: jax.Array,
    lengths: jax.Array,
    positions: jax.Array,
    origins: jax.Array,
    *,
    site: str,
    reuse: bool,
) -> Runs:
    """The first half of the rows is the base, the second the source."""
    rows, width = len(positions), tokens.shape[1]
    cache = caches.empty(model.config, rows, width, model.embed[...].dtype) if reuse else None
    last = lengths[:, None] - 1
    base = forward(model, tokens[:rows], mask=mask[:rows], cache=cache, logits_at=last[:rows])
    source = forward(
        model,
        tokens[rows:],
        mask=mask[rows:],
        capture={site: At(jnp.where(origins < lengths[rows:, None], origins, -1))},
        logits_at=last[rows:],
    )
    states = source.captures[site]
    return Runs(
        tokens=tokens[:rows],
        lengths=lengths[:rows],
        cache=base.cache,
        positions=positions,
        known=(positions < lengths[:rows, None]) & (origins < lengths[rows:, None]),
        states=states if find(site).layered else states[None],
        base=metric(base.logits[:, 0]),
        source=metric(source.logits[:, 0]),
    )


@functools.partial(jax.jit, static_argnames=("site", "width", "split"))
def _cells(
    model: Decoder,
    metric: Metric,
    runs: Runs,
    cells: jax.Array,
    *,
    site: str,
    width: int,
    split: bool,
) -> jax.Array:
    """`[n, b]`: `cells` `[n, 3]` in every row; not a number where there is no such place."""
    layer, place, unit = cells.T
    (count, _), rows = cells.shape, len(runs.lengths)
    row = jnp.tile(jnp.arange(rows), count)
    at = runs.positions[:, place].T.reshape(-1)
    length = runs.lengths[row]
    start = jnp.clip(at, 0, length - 1) if runs.cache is not None else jnp.zeros_like(at)
    past = None if runs.cache is None else before(runs.cache, row, start, room=width)
    slots = start[:, None] + jnp.arange(width)
    tokens = jnp.take_along_axis(runs.tokens[row], slots, axis=1, mode="clip")
    about = find(site)
    out = forward(
        model,
        tokens,
        mask=slots < length[:, None],
        cache=past,
        logits_at=length[:, None] - 1,
        edits=patch(
            site,
            runs.states[layer.repeat(rows), row, place.repeat(rows)],
            layers=layer.repeat(rows)[:, None] if about.layered else None,
            positions=at,
            part=_only(unit.repeat(rows), about, model) if split else None,
        ),
    )
    logits = out.logits.reshape(count, rows, -1)
    return jnp.where(runs.known[:, place].T, jax.vmap(metric)(logits), jnp.nan)


def _only(unit: jax.Array, site: Site, model: Decoder) -> jax.Array:
    """bool `[b, units, 1...]`: one head or neuron in each row."""
    size = site.feature_shape(model.config)[0]
    chosen = unit[:, None] == jnp.arange(size)
    return chosen.reshape(*chosen.shape, *(1,) * (len(site.axes) - 1))


def _compact(tokens: Array, mask: Array | None) -> list[list[int]]:
    """The real tokens of every row."""
    check_text(tokens, mask)
    tokens = np.asarray(tokens)
    mask = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask, bool)
    texts = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    if not texts or not all(texts):
        raise SelfxError("a row without tokens", expected="at least one real token in each")
    return texts


def _grid(positions: Any, lengths: np.ndarray, what: str) -> np.ndarray:
    """int32 `[b, p]`: the columns of the grid; all of the longest row's without a choice."""
    longest = int(lengths.max())
    chosen = np.arange(longest) if positions is None else np.atleast_1d(np.asarray(positions))
    if chosen.ndim > 2 or (chosen.ndim == 2 and len(chosen) not in (1, len(lengths))):
        raise SelfxError(
            f"{what}s of shape {list(chosen.shape)}", expected=f"[p] or [{len(lengths)}, p]"
        )
    if not chosen.size or chosen.min() < 0 or chosen.max() >= longest:
        wrong = chosen[(chosen < 0) | (chosen >= longest)][:1]
        raise SelfxError(
            f"{what} {wrong[0]}" if wrong.size else f"no {what}s",
            expected=f"from 0 to {longest - 1}",
        )
    return np.broadcast_to(chosen.astype(np.int32), (len(lengths), chosen.shape[-1]))


def _check_ids(texts: Sequence[list[int]], vocabulary: int) -> None:
    wrong = [n for text in texts for n in (min(text), max(text)) if not 0 <= n < vocabulary]
    if wrong:
        raise SelfxError(f"token {wrong[0]}", expected=f"ids from 0 to {vocabulary - 1}")
