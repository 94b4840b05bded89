"""Products with dictionaries of which each token uses few rows, forward and backward.

A token's `k` latents are held as values `[b, k]` and row numbers `[b, k]`, a token's rows all
different. Only the search for them reads the whole dictionary. What follows, the gradients of both
its sides included, costs `b k d` and not `b n d`; a dense layer would spend four products more.
Where no loop is cheap (on an accelerator) the same sums are dense products again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def pick(x: jax.Array, rows: jax.Array, bias: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The `k` largest of `x @ rows.T + bias`: values `[b, k]`, falling, and row numbers `[b, k]`.

    Args:
      x: `[b, d]`.
      rows: `[n, d]`.
      bias: `[n]`.
      k: how many.
    """
    values, index = jax.lax.top_k(x @ rows.T + bias, k)
    return values, index


def _pick_forward(x, rows, bias, k):
    values, index = pick(x, rows, bias, k)
    return (values, index), (x, rows, index)


def _pick_backward(k, kept, slopes):
    x, rows, index = kept
    slope, _ = slopes
    n = rows.shape[0]
    bias = spread(slope, index, jnp.ones((len(x), 1), x.dtype), n)[:, 0]
    return mix(slope, index, rows), spread(slope, index, x, n), bias


pick.defvjp(_pick_forward, _pick_backward)


@jax.custom_vjp
def mix(values: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    """`[b, d]`: each token's sum of its rows times their values.

    Args:
      values: `[b, k]`.
      index: int32 `[b, k]`.
      rows: `[n, d]`.
    """

    def add(total, one):
        value, which = one
        return total + value[:, None] * rows[which], None

    zero = jnp.zeros((values.shape[0], rows.shape[1]), rows.dtype)
    return jax.lax.scan(add, zero, (values.T, index.T), unroll=4)[0]


def _mix_forward(values, index, rows):
    return mix(values, index, rows), (values, index, rows)


def _mix_backward(kept, slope):
    values, index, rows = kept
    return dots(slope, index, rows), None, spread(values, index, slope, rows.shape[0])


mix.defvjp(_mix_forward, _mix_backward)


def dots(y: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    """`[b, k]`: the product of each token's `y` `[b, d]` with each of its rows of `[n, d]`."""
    return jax.lax.platform_dependent(y, index, rows, cpu=_dots_looped, default=_dots_dense)


def _dots_looped(y: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    def one(token: tuple[jax.Array, jax.Array]) -> jax.Array:
        own, which = token
        return rows[which] @ own

    return jax.lax.map(one, (y, index), batch_size=8)


def _dots_dense(y: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.take_along_axis(y @ rows.T, index, axis=1)


def spread(values: jax.Array, index: jax.Array, y: jax.Array, n: int) -> jax.Array:
    """`[n, d]`: in each row the sum of `y` `[b, d]` times value, over the tokens that use the row.

    Token by token on a CPU, where a loop costs little and a row stays in the cache. Elsewhere as a
    dense product, which unlike concurrent sums comes out the same to the bit every time.
    """
    return jax.lax.platform_dependent(values, index, y, cpu=_looped(n), default=_dense(n))


def _looped(n: int) -> Callable[..., jax.Array]:
    def run(values, index, y):
        def add(token, total):
            terms = values[token][:, None] * y[token][None]
            return total.at[index[token]].add(terms, unique_indices=True)

        return jax.lax.fori_loop(0, len(y), add, jnp.zeros((n, y.shape[1]), y.dtype))

    return run


def _dense(n: int) -> Callable[..., jax.Array]:
    def run(values, index, y):
        tokens = jnp.arange(len(y))[:, None]
        full = jnp.zeros((len(y), n), y.dtype).at[tokens, index].set(values, unique_indices=True)
        return full.T @ y

    return run


def kth_largest(values: jax.Array, k: jax.Array) -> jax.Array:
    """The `k`-th largest of non-negative float32 `values` of any shape; `k` may be traced.

    By halving the range of bit patterns, which for such numbers are in the order of the numbers:
    31 counts instead of a sort.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)

    def halve(bit, low):
        middle = low | (jnp.int32(1) << (30 - bit))
        return jnp.where((bits >= middle).sum() >= k, middle, low)

    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, halve, jnp.int32(0)), jnp.float32)
