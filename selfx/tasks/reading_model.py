"""What a target does at some places of some texts: its residuals there, and its next tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.features.exemplars.excerpts import Pieces
from selfx.interventions.batching import chunks, pad, repeat_last
from selfx.models.decoder import Decoder, forward, read_out
from selfx.models.tap import At
from selfx.tasks.plain_words import first_words

CANDIDATES = 48
"""Of how many of the likeliest tokens the words are taken that a lens reads."""
_ROWS = 64


def read_places(
    model: Decoder,
    texts: Sequence[Sequence[int]],
    places: np.ndarray,
    *,
    site: str,
    layers: tuple[int, ...],
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The states `[n, p, l, d]` in float32, and the likeliest next tokens int `[n, p]`.

    One forward pass of each text gives both, at all places and layers.

    Args:
      model: the target.
      texts: `n` texts of tokens.
      places: int `[n, p]`, positions in them.
      site: a site in the layers, of the residual's width.
      layers: `l` layers.
      batch_size: texts at once.
    """
    states, following = [], []
    for rows in chunks(range(len(texts)), batch_size):
        tokens, mask = pad([texts[row] for row in rows], batch_size)
        at = np.array(repeat_last([places[row] for row in rows], batch_size), np.int32)
        seen, chosen = _pass(model, tokens, mask, at, site=site, layers=layers)
        states.append(np.asarray(seen.astype(jnp.float32))[:, : len(rows)].transpose(1, 2, 0, 3))
        following.append(np.asarray(chosen)[: len(rows)])
    return np.concatenate(states), np.concatenate(following)


def lens_words(
    model: Decoder, tokenizer: Any, vectors: np.ndarray, count: int
) -> list[tuple[str, ...]]:
    """The likeliest `count` different words that the head reads from each vector `[n, d]`.

    The logit lens (nostalgebraist 2020): final norm and unembedding, no layer in between. Tokens
    that are no words are passed over; fewer words come back where the likeliest `CANDIDATES` tokens
    have no more.
    """
    pieces = Pieces(tokenizer)
    starts = range(0, len(vectors), _ROWS)
    ids = [row for at in starts for row in _ranked(model, vectors[at : at + _ROWS])]
    return [first_words(pieces(row), count) for row in ids]


def _ranked(model: Decoder, vectors: np.ndarray) -> np.ndarray:
    """int `[n, CANDIDATES]`: the likeliest tokens of at most `_ROWS` vectors; as many are run."""
    filled = np.zeros((_ROWS, vectors.shape[1]), np.float32)
    filled[: len(vectors)] = vectors
    count = min(CANDIDATES, model.config.vocab_size)
    return np.asarray(_top(model, filled, count=count))[: len(vectors)]


@functools.partial(jax.jit, static_argnames="count")
def _top(model: Decoder, vectors: jax.Array, *, count: int) -> jax.Array:
    residual = vectors.astype(model.embed[...].dtype)
    return jax.lax.top_k(read_out(model, residual), count)[1]


@functools.partial(jax.jit, static_argnames=("site", "layers"))
def _pass(
    model: Decoder,
    tokens: jax.Array,
    mask: jax.Array,
    places: jax.Array,
    *,
    site: str,
    layers: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    capture = {site: At(places, layers)}
    out = forward(model, tokens, mask=mask, capture=capture, logits_at=places)
    return out.captures[site], out.logits.argmax(axis=-1)
