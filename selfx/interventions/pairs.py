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
from selfx.interventions.sources import Sources
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, forward

__all__ = ["Pair", "PairResults", "check_pairs", "read_pairs", "run_pairs", "write_results"]

WAVE = 16
"""Batches of pairs whose source states are held at a time."""

States = Callable[[Sequence[int]], np.ndarray]


def run_pairs(
    model: Decoder,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
    keep_vectors: bool = False,
    vectors: np.ndarray | None = None,
) -> PairResults:
    """The next token of every pair, before and after its patch.

    Args:
      model: the weights.
      pairs: any texts, layers and positions, in any order.
      batch_size: rows of one run; results do not depend on it.
      progress: called with (pairs done, pairs in all, a note).
      keep_vectors: also return the source vectors.
      vectors: `[n, d]` to write in place of what the sources hold, the same in all layers of a
        pair; the sources are not run then.

    Raises:
      SelfxError: a pair that does not fit the model.
    """
    check_pairs(pairs, model.config)
    base, patched = np.zeros((2, len(pairs)), np.int64)
    margin = np.zeros(len(pairs), np.float32)
    kept = np.zeros((len(pairs), model.config.d_model), np.float32) if keep_vectors else None
    done = 0
    for wave in _waves(pairs, WAVE * batch_size):
        flat = [index for text in wave for index in text]
        states = _states(model, pairs, flat, vectors, batch_size)
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
                if kept is not None:
                    kept[part] = found[2]
                done += len(part)
                if progress is not None:
                    progress(done, len(pairs), "")
    return PairResults(base, patched, margin, kept)


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


def _states(
    model: Decoder,
    pairs: Sequence[Pair],
    wanted: list[int],
    vectors: np.ndarray | None,
    batch_size: int,
) -> States:
    """What given pairs write, `[b, l, d]`: the residuals of their sources, or given vectors."""
    if vectors is not None:
        given, layers = vectors.astype(model.embed[...].dtype), model.config.n_layers
        return lambda part: np.repeat(given[list(part)][:, None], layers, axis=1)
    spots = {index: (pairs[index].source_ids, pairs[index].source_pos) for index in wanted}
    sources = Sources(model, list(spots.values()), batch_size)
    return lambda part: sources([spots[index] for index in part])


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
    states: States,
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
    full = states(repeat_last(part, count))
    found = _finish(model, past, tokens, mask, start, layers, kind, full)
    return tuple(np.asarray(array)[: len(part)] for array in found)


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
