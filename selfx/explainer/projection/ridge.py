"""The linear map from one model's states to another's, from sums over them: no state is kept."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from selfx.errors import SelfxError


@struct.dataclass
class Moments:
    """Sums over pairs of states, for each layer.

    Attributes:
      xx: float32 `[l, d_target, d_target]`.
      xy: float32 `[l, d_target, d_explainer]`.
    """

    xx: jax.Array
    xy: jax.Array


def no_moments(n_layers: int, d_target: int, d_explainer: int) -> Moments:
    """The sums before the first pair."""
    shape = (n_layers, d_target)
    return Moments(jnp.zeros((*shape, d_target)), jnp.zeros((*shape, d_explainer)))


@partial(jax.jit, donate_argnums=0)
def add(moments: Moments, x: jax.Array, y: jax.Array) -> Moments:
    """The sums with states `[l, n, d_target]` and `[l, n, d_explainer]`; the old are used up."""
    return Moments(moments.xx + _products(x, x), moments.xy + _products(x, y))


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum("lni,lnj->lij", x, y, precision="highest")


def ridge(xtx: np.ndarray, xty: np.ndarray, strength: float) -> np.ndarray:
    """Float64 `[d_target, d_explainer]`: the P for which `|X P - Y|^2 + a |P|^2` is least.

    Args:
      xtx: `[d_target, d_target]`, X' X.
      xty: `[d_target, d_explainer]`, X' Y.
      strength: `a` as a share of the mean of X' X's diagonal, so that it means the same whatever
        the number of rows.

    Raises:
      SelfxError: numbers that are not finite, or a strength too small for them.
    """
    xtx, xty = np.asarray(xtx, np.float64), np.asarray(xty, np.float64)
    if not (np.isfinite(xtx).all() and np.isfinite(xty).all()):
        raise SelfxError("sums over states that are not finite", expected="finite states")
    if not 0 < strength < np.inf:
        raise SelfxError(f"a ridge of strength {strength}", expected="a positive number")
    held = xtx + strength * np.diagonal(xtx).mean() * np.eye(len(xtx))
    try:
        factor = cho_factor(held, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise SelfxError(
            f"a ridge of strength {strength}, too small for these states", hint="a larger one"
        ) from error
    return cho_solve(factor, xty, check_finite=False)


def solve(moments: Moments, strength: float) -> np.ndarray:
    """Float32 `[l, d_target, d_explainer]`: every layer's `ridge`."""
    xx, xy = np.asarray(moments.xx), np.asarray(moments.xy)
    solved = [ridge(*pair, strength) for pair in zip(xx, xy, strict=True)]
    return np.stack(solved).astype(np.float32)
