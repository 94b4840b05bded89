"""A projection fitted on texts that both models read, and measured on texts held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.projection.files import Projection, same_depth
from selfx.explainer.projection.pairing import Piece, paired_texts
from selfx.explainer.projection.ridge import Moments, add, no_moments, solve
from selfx.explainer.projection.states import ROWS, paired_states
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT = 10
"""Every so many-th text is measured on, and not fitted."""

_NOT_FINITE = "run selfx doctor on both models"


@dataclasses.dataclass(frozen=True)
class Fit:
    """How well some matrices tell the explainer's states from the target's.

    Attributes:
      r2: float64 `[l]`, the share of the variance about the mean that is told.
      cosine: float64 `[l]`, the mean cosine of what is told and what is.
    """

    r2: np.ndarray
    cosine: np.ndarray


def fit_projection(
    target: LanguageModel,
    explainer: LanguageModel,
    texts: Sequence[str],
    *,
    limit_tokens: int = 200_000,
    strengths: Sequence[float] = STRENGTHS,
    report: Report = silent,
) -> Projection:
    """The projection by which the explainer's states are best told from the target's.

    Layers are paired by their relative depth, tokens by where in the text they end. Each layer has
    the strength that does best on every tenth text, and its figures there are given: with so few
    strengths to choose from, the choice flatters them little.

    Args:
      target: whose states are to be read.
      explainer: who shall read them.
      texts: of any length, ten at least; a few times more tokens than the target is wide.
      limit_tokens: about how many pairs of tokens are used, those held out included.
      strengths: of the ridge, to choose from; each takes as much room as the projection.
      report: told of progress.

    Raises:
      SelfxError: no pairs, no text to hold out, no strength, or states that are not finite.
    """
    if not strengths:
        raise SelfxError("no strength of the ridge", expected="one at least")
    fitted, held = _apart(paired_texts(target, explainer, texts, limit=limit_tokens))
    states = partial(_states, target, explainer, len(fitted) + len(held), report)
    one, other = target.config, explainer.config
    moments = no_moments(one.n_layers, one.d_model, other.d_model)
    for pair in states(fitted, 0):
        moments = add(moments, *pair)
    _check_finite(moments, target, explainer)
    candidates = [solve(moments, strength) for strength in strengths]
    del moments
    fits = measure(candidates, states(held, len(fitted)))
    r2, cosine = np.stack([fit.r2 for fit in fits]), np.stack([fit.cosine for fit in fits])
    if not np.isfinite(r2).all():
        raise SelfxError("states that are not finite in a text held out", hint=_NOT_FINITE)
    best, rows = r2.argmax(axis=0), np.arange(one.n_layers)
    return Projection(
        matrices=np.stack([candidates[i][layer] for layer, i in enumerate(best)]),
        layers=tuple(same_depth(one.n_layers, other.n_layers)),
        kind="ridge",
        target=target.hash,
        explainer=explainer.hash,
        r2=tuple(r2[best, rows].tolist()),
        cosine=tuple(cosine[best, rows].tolist()),
        strengths=tuple(float(strengths[i]) for i in best),
    )


def _apart(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """The pieces to fit, and those held out."""
    held = [piece for piece in pieces if piece.text % HELD_OUT == HELD_OUT - 1]
    fitted = [piece for piece in pieces if piece.text % HELD_OUT != HELD_OUT - 1]
    if not fitted or sum(len(piece.places) for piece in held) < 2:
        count = len({piece.text for piece in pieces})
        raise SelfxError(
            f"{count} texts with tokens to pair",
            expected=f"{HELD_OUT} at least: every {HELD_OUT}th is held out",
        )
    return fitted, held


Pair = tuple[jax.Array, jax.Array]


def _states(
    target: LanguageModel,
    explainer: LanguageModel,
    total: int,
    report: Report,
    pieces: Sequence[Piece],
    before: int,
) -> Iterator[Pair]:
    """What both models hold at the same depths; `report` hears of pieces, of `total`."""
    layers = same_depth(target.config.n_layers, explainer.config.n_layers)
    batches = paired_states(target, explainer, pieces, dict(enumerate(layers)))
    for batch, pair in enumerate(batches, 1):
        yield pair
        report(before + min(batch * ROWS, len(pieces)), total, "")


def _check_finite(moments: Moments, target: LanguageModel, explainer: LanguageModel) -> None:
    """Raises SelfxError naming the model and layer whose states are not finite."""
    for name, sums in ((target.name, moments.xx), (explainer.name, moments.xy)):
        wrong = np.flatnonzero(~np.asarray(jnp.isfinite(sums).all(axis=(1, 2))))
        if len(wrong):
            raise SelfxError(
                f"states of {name} that are not finite, at layer {wrong[0]} of the target first",
                expected="finite weights",
                hint=_NOT_FINITE,
            )


def measure(matrices: Sequence[np.ndarray], pairs: Iterable[Pair]) -> list[Fit]:
    """How well each of several `[l, d_target, d_explainer]` tells `y` from `x`, over all pairs.

    Args:
      matrices: what is measured.
      pairs: batches of states as `paired_states` yields them.
    """
    on_device = [jnp.asarray(one) for one in matrices]
    count, spread, seen = (np.zeros(()) for _ in range(3))
    told: list[np.ndarray] = [np.zeros(())] * len(on_device)
    for x, y in pairs:
        about = [np.asarray(part, np.float64) for part in _about(y)]
        count, spread, seen = count + about[0], spread + about[1], seen + about[2]
        for i, one in enumerate(on_device):
            told[i] = told[i] + np.asarray(_told(one, x, y), np.float64)
    variance = spread - (seen**2).sum(axis=-1) / count
    variance = np.maximum(variance, np.finfo(np.float32).tiny)
    return [Fit(1 - missed / variance, cosine / count) for missed, cosine in told]


@jax.jit
def _about(y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of states `[l, n, d]`: how many `[l]`, their squared lengths `[l]` and themselves summed."""
    squares = (y * y).sum(axis=-1)
    return (squares > 0).sum(axis=-1), squares.sum(axis=-1), y.sum(axis=1)


@jax.jit
def _told(matrices: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`[2, l]`: the squares of what is missed, and the cosines, summed over `n`."""
    guess = jnp.einsum("lnd,lde->lne", x, matrices, precision="highest")
    norms = jnp.linalg.norm(guess, axis=-1)
    cosines = (guess * y).sum(axis=-1) / jnp.where(norms == 0, 1, norms)
    return jnp.stack([((guess - y) ** 2).sum(axis=(1, 2)), cosines.sum(axis=-1)])
