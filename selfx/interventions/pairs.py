"""Many patches from one text into another at once, each its own text, layers and positions.

Nothing is computed twice. Distinct base texts run once and leave their keys and values behind; a
patched run starts from them at the patched position, because what stands before it cannot change.
Of a source text only the part up to its last wanted position runs, and no logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from selfx.interventions.batching import bucket, chunks, pad, repeat_last, rows_for
from selfx.interventions.build import patch
from selfx.interventions.pair_files import (
    VALUES,
    Pair,
    PairResults,
    check_pairs,
    read_pairs,
    write_results,
)
from selfx.interventions.reuse import before, begin
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, forward
from selfx.models.tap import At

__all__ = ["Pair", "PairResults", "check_pairs", "read_pairs", "run_pairs", "write_results"]

POSITIONS_A_ROW = 4
"""How many positions of a source text one row of a run returns."""
WAVE = 16
"""Batches of pairs whose source states are held at a time."""


def run_pairs(
    model: Decoder,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
    keep_vectors: bool = False,
) -> PairResults:
    """The next token of every pair, before and after its patch.

    Args:
      model: the weights.
      pairs: any texts, layers and positions, in any order.
      batch_size: rows of one run; results do not depend on it.
      progress: called with (pairs done, pairs in all, a note).
      keep_vectors: also return the source vectors.

    Raises:
      SelfxError: a pair that does not fit the model.
    """
    check_pairs(pairs, model.config)
    base, patched = np.zeros((2, len(pairs)), np.int64)
    margin = np.zeros(len(pairs), np.float32)
    vectors = np.zeros((len(pairs), model.config.d_model), np.float32) if keep_vectors else None
    done = 0
    for wave in _waves(pairs, WAVE * batch_size):
        flat = [index for text in wave for index in text]
        states = _Sources(model, pairs, flat, batch_size)
        for texts in chunks(wave, batch_size):
            chosen, cache = _run_bases(
                model, [pairs[text[0]].base_ids for text in texts], batch_size
            )
            row = {index: place for place, text in enumerate(texts) for index in text}
            order = sorted(row, key=lambda index: (_suffix(pairs[index]), index))
            for part in chunks(order, batch_size):
                found = _run_patched(model, pairs, part, row, cache, states, batch_size)
                base[part] = chosen[[row[index] for index in part]]
                patched[part], margin[part] = found[0], found[1]
                if vectors is not None:
                    vectors[part] = found[2]
                done += len(part)
                if progress is not None:
                    progress(done, len(pairs), "")
    return PairResults(base, patched, margin, vectors)


def _suffix(pair: Pair) -> int:
    """How many tokens of the base a patch can change."""
    return len(pair.base_ids) - pair.base_pos


def _waves(pairs: Sequence[Pair], size: int) -> Iterator[list[list[int]]]:
    """Indices grouped by base text, texts of like shape together, about `size` pairs at a time."""
    by_text: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_text[pair.base_ids].append(index)

    def shape(ids: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        return bucket(len(ids)), max(_suffix(pairs[index]) for index in by_text[ids]), ids

    wave: list[list[int]] = []
    held = 0
    for ids in sorted(by_text, key=shape):
        wave.append(by_text[ids])
        held += len(by_text[ids])
        if held >= size:
            yield wave
            wave, held = [], 0
    if wave:
        yield wave


class _Sources:
    """Residuals `[l, d]` of every (source text, position) that some pairs need."""

    def __init__(self, model: Decoder, pairs: Sequence[Pair], wanted: list[int], batch_size: int):
        config = model.config
        rows = _source_rows([pairs[index] for index in wanted])
        self.place: dict[tuple[tuple[int, ...], int], int] = {}
        for ids, positions in rows:
            for position in positions:
                self.place[ids, position] = len(self.place)
        shape = (len(self.place), config.n_layers, config.d_model)
        self.states = np.zeros(shape, model.embed[...].dtype)
        for part in chunks(rows, batch_size):
            tokens, mask = pad(
                [r[0][: max(r[1]) + 1] for r in part], rows_for(len(part), batch_size)
            )
            full = [repeat_last(positions, POSITIONS_A_ROW) for _, positions in part]
            seen = _read(model, tokens, mask, np.array(repeat_last(full, len(tokens)), np.int32))
            for row, (ids, positions) in enumerate(part):
                for slot, position in enumerate(positions):
                    self.states[self.place[ids, position]] = np.asarray(seen[:, row, slot])

    def __call__(self, pairs: Sequence[Pair]) -> np.ndarray:
        """`[b, l, d]`, a row for each pair."""
        return self.states[[self.place[pair.source_ids, pair.source_pos] for pair in pairs]]


def _source_rows(pairs: Sequence[Pair]) -> list[tuple[tuple[int, ...], list[int]]]:
    """Each distinct source with the positions to read, a few to a row, the shortest runs first."""
    by_text: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for pair in pairs:
        by_text[pair.source_ids].add(pair.source_pos)
    rows = [
        (ids, list(part))
        for ids, positions in by_text.items()
        for part in chunks(sorted(positions), POSITIONS_A_ROW)
    ]
    return sorted(rows, key=lambda row: (max(row[1]), row))


def _run_bases(
    model: Decoder, texts: list[tuple[int, ...]], batch_size: int
) -> tuple[np.ndarray, Cache]:
    """The next token of each text `[n]`, and the keys and values that their runs left."""
    tokens, mask = pad(texts, rows_for(len(texts), batch_size))
    chosen, cache = begin(model, tokens, mask)
    return np.asarray(chosen)[: len(texts)], cache


def _run_patched(
    model: Decoder,
    pairs: Sequence[Pair],
    part: Sequence[int],
    row: dict[int, int],
    cache: Cache,
    states: _Sources,
    batch_size: int,
) -> tuple[np.ndarray, ...]:
    """Tokens `[n]`, margins `[n]` and source vectors `[n, d]` of one batch of pairs."""
    count = rows_for(len(part), batch_size)
    chosen = [pairs[index] for index in repeat_last(part, count)]
    tokens, mask = pad([pair.base_ids[pair.base_pos :] for pair in chosen], count)
    start = np.array([pair.base_pos for pair in chosen], np.int32)
    layers = np.full((count, model.config.n_layers), -1, np.int32)
    for line, pair in zip(layers, chosen, strict=True):
        line[: len(pair.layers)] = pair.layers
    kind = np.array([VALUES.index(pair.value) for pair in chosen], np.int32)
    rows = np.array([row[index] for index in repeat_last(part, count)], np.int32)
    past = before(cache, rows, start, room=tokens.shape[1])
    found = _finish(model, past, tokens, mask, start, layers, kind, states(chosen))
    return tuple(np.asarray(array)[: len(part)] for array in found)


@jax.jit
def _read(model: Decoder, tokens: jax.Array, mask: jax.Array, positions: jax.Array) -> jax.Array:
    """The residuals `[l, b, p, d]` leaving every layer at `positions` `[b, p]`."""
    first = jnp.zeros((tokens.shape[0], 1), jnp.int32)
    capture = {"resid_post": At(positions=positions)}
    return forward(model, tokens, mask=mask, capture=capture, logits_at=first).captures[
        "resid_post"
    ]


@jax.jit
def _finish(
    model: Decoder,
    past: Cache,
    tokens: jax.Array,
    mask: jax.Array,
    start: jax.Array,
    layers: jax.Array,
    kind: jax.Array,
    states: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Token, margin and source vector of rows that go on from `past`, patched at their first."""
    value, mean = _values(layers, kind, states)
    edits = patch("resid_post", value, layers=layers, positions=start)
    last = start[:, None] + mask.sum(axis=1, dtype=jnp.int32)[:, None] - 1
    out = forward(model, tokens, mask=mask, cache=past, edits=edits, logits_at=last)
    chosen, margin = _best(out.logits[:, 0])
    return chosen, margin, mean


def _best(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The likeliest token `[b]` and its lead over the second best; a full sort costs much more."""
    chosen = logits.argmax(axis=-1)
    others = jnp.where(jnp.arange(logits.shape[-1]) == chosen[:, None], -jnp.inf, logits)
    return chosen, logits.max(axis=-1) - others.max(axis=-1)


def _values(layers: jax.Array, kind: jax.Array, states: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What to write in each layer `[b, l, d]`, and the mean over the listed layers `[b, d]`."""
    listed = (layers[:, :, None] == jnp.arange(states.shape[1])).any(axis=1)[..., None]
    mean = jnp.where(listed, states.astype(jnp.float32), 0).sum(axis=1) / listed.sum(axis=1)
    first = jnp.take_along_axis(states, layers[:, :1, None], axis=1)
    kind = kind[:, None, None]
    once = jnp.where(kind == VALUES.index("first"), first, mean[:, None].astype(states.dtype))
    return jnp.where(kind == VALUES.index("per_layer"), states, once), mean
