"""What two models hold at the same places of the same text, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from selfx.explainer.projection.pairing import Piece
from selfx.interventions.batching import chunks, repeat_last
from selfx.models.decoder import Decoder, forward
from selfx.models.tap import At
from selfx.weights.load import LanguageModel

SITE = "resid_post"
ROWS = 8
"""Pieces at once."""

_STEP = 64


def paired_states(
    target: LanguageModel,
    explainer: LanguageModel,
    pieces: Sequence[Piece],
    depths: Mapping[int, int],
    *,
    rows: int = ROWS,
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The residuals that leave both models' layers at all pairs of places, each of length 1.

    Args:
      target, explainer: the models.
      pieces: texts as `paired_texts` gives them.
      depths: which layer of the explainer goes with which of the target.
      rows: pieces in a batch.

    Yields:
      Float32 `[l, n, d_target]` and `[l, n, d_explainer]`, `l` in the order of `depths`. A row of
      a batch that is no pair is zeros in both.
    """
    here, there = list(depths), list(depths.values())
    for batch in chunks(pieces, rows):
        places = _places(batch, rows)
        ours, theirs = [piece.target for piece in batch], [piece.explainer for piece in batch]
        x = _unit_states(target.model, ours, places[0], here)
        yield x, _unit_states(explainer.model, theirs, places[1], there)


def _unit_states(
    model: Decoder, ids: Sequence[Sequence[int]], places: np.ndarray, layers: Sequence[int]
) -> jax.Array:
    """Float32 `[l, n, d]` of the layers, in that order; some may come more than once."""
    own = sorted(set(layers))
    tokens, mask = _padded(repeat_last(ids, len(places)))
    found = _read(model, tokens, mask, places, tuple(own))
    order = [own.index(layer) for layer in layers]
    return found if order == list(range(len(own))) else found[jnp.array(order)]


@partial(jax.jit, static_argnames="layers")
def _read(
    model: Decoder,
    tokens: np.ndarray,
    mask: np.ndarray,
    places: np.ndarray,
    layers: tuple[int, ...],
) -> jax.Array:
    """Float32 `[l, b * p, d]` at places `[b, p]`: units, zeros at -1, NaN where a state is none."""
    where = {SITE: At(places, layers)}
    x = forward(model, tokens, mask=mask, capture=where, fused=True).captures[SITE]
    x = x.reshape(len(layers), -1, x.shape[-1]).astype(jnp.float32)
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norms == 0, 1, norms)


def _places(pieces: Sequence[Piece], rows: int) -> np.ndarray:
    """int32 `[2, b, p]` of the target and of the explainer, -1 where there is no pair."""
    width = _wide(max(len(piece.places) for piece in pieces))
    places = np.full((2, rows, width), -1, np.int32)
    for row, piece in enumerate(pieces):
        places[:, row, : len(piece.places)] = piece.places.T
    return places


def _padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 `[b, t]` padded on the right, and the mask `[b, t]` of real ones."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(_wide(lengths.max())) < lengths[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return tokens, mask


def _wide(length: int) -> int:
    """Few widths, so that few programs are compiled: pieces are cut to much the same length."""
    return int(-(-length // _STEP) * _STEP)
