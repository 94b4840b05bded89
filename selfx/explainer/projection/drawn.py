"""Projections that know nothing of either model: where training starts, and what it must beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.projection.files import Projection, same_depth
from selfx.weights.load import LanguageModel

Drawn = Literal["random", "kaiming"]


def random(n_layers: int, d_target: int, d_explainer: int, key: jax.Array) -> jax.Array:
    """Float32 `[l, d_target, d_explainer]`: semi-orthogonal, each layer's drawn by itself.

    Where the explainer is as wide as the target or wider, lengths and angles are kept exactly.
    Where it is narrower, some directions must go: lengths are kept on average over directions, by
    a factor of the root of `d_target / d_explainer`.
    """
    wide, narrow = max(d_target, d_explainer), min(d_target, d_explainer)

    def one(key: jax.Array) -> jax.Array:
        q, r = jnp.linalg.qr(jax.random.normal(key, (wide, narrow), jnp.float32))
        q = q * jnp.sign(jnp.diagonal(r))  # else the draw would lean to the algorithm's signs
        return q.T if d_explainer >= d_target else q

    scale = math.sqrt(max(d_target / d_explainer, 1.0))
    return scale * jax.lax.map(one, jax.random.split(key, n_layers))


def kaiming(n_layers: int, d_target: int, d_explainer: int, key: jax.Array) -> jax.Array:
    """Float32 `[l, d_target, d_explainer]`: uniform within 1 / sqrt(d_target), as the paper draws.

    It is the start of a linear layer in torch (arXiv 1502.01852 with a slope of sqrt(5)), which the
    paper's code (arXiv 2511.08579) leaves as it is for its random projection. Unlike `random` it
    changes lengths, by sqrt(d_explainer / (3 d_target)) on average: 0.58 at equal widths. Angles it
    keeps only on average, with an error of about 1 / sqrt(d_explainer).
    """
    bound = 1 / math.sqrt(d_target)
    shape = (n_layers, d_target, d_explainer)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


DRAWS: dict[str, Callable[[int, int, int, jax.Array], jax.Array]] = {
    "random": random,
    "kaiming": kaiming,
}


def drawn(
    kind: Drawn, target: LanguageModel, explainer: LanguageModel, key: jax.Array
) -> Projection:
    """A projection from target to explainer, drawn as `kind` says.

    Raises:
      SelfxError: there is no such kind.
    """
    if kind not in DRAWS:
        raise SelfxError(f"a projection drawn as {kind!r}", expected=" or ".join(DRAWS))
    one, other = target.config, explainer.config
    matrices = DRAWS[kind](one.n_layers, one.d_model, other.d_model, key)
    layers = tuple(same_depth(one.n_layers, other.n_layers))
    return Projection(np.asarray(matrices), layers, kind, target.hash, explainer.hash)
