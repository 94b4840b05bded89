"""Products with dictionaries of which each token uses few rows, forward and backward.

A token's `k` latents are held as values `[b, k]` and row numbers `[b, k]`, a token's rows all
different. Only the search for them reads the whole dictionary. What follows, the gradients of both
its sides included, costs `b k d` and not `b n d`; a dense layer would spend four products more.
Where no loop is cheap (on an accelerator) the same sums are dense products again, and the search
sorts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

BLOCK = 2**21  # products with all rows at once, on a CPU: 8 MB


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def pick(x: jax.Array, rows: jax.Array, bias: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The `k` largest of `x @ rows.T + bias`: values `[b, k]`, falling, and row numbers `[b, k]`.

    Args:
      x: `[b, d]`.
      rows: `[n, d]`.
      bias: `[n]`.
      k: how many.
    """
    return jax.lax.platform_dependent(x, rows, bias, cpu=_searched(k), default=_sorted(k))


def _sorted(k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def run(x, rows, bias):
        values, index = jax.lax.top_k(x @ rows.T + bias, k)
        return values, index

    return run


def _searched(k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The same on a CPU: some tokens at a time, what is computed for them still in the cache.

    All of `[b, n]` at once is memory that the system hands out anew, page by page, every step.
    """

    def run(x, rows, bias):
        count = 1 << ((len(x) - 1) // max(128, BLOCK // len(rows))).bit_length()
        padded = jnp.pad(x, ((0, -len(x) % count), (0, 0)), mode="edge")

        def one(block):
            return jax.vmap(partial(largest, k=k))(block @ rows.T + bias)

        values, index = jax.lax.map(one, padded.reshape(count, -1, x.shape[1]))
        return values.reshape(-1, k)[: len(x)], index.reshape(-1, k)[: len(x)]

    return run


def _pick_forward(x, rows, bias, k):
    values, index = pick(x, rows, bias, k)
    return (values, index), (x, rows, index)


def _pick_backward(k, kept, slopes):
    x, rows, index = kept
    slope, _ = slopes
    n = rows.shape[0]
    return mix(slope, index, rows), spread(slope, index, x, n), tally(slope, index, n)


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

    return jax.lax.map(one, (y, index), batch_size=64)


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

        # Zero, which XLA cannot tell: else two calls are given one array of zeros, and copy it.
        zero = jnp.minimum(jnp.abs(values[0, 0]), 0)
        return jax.lax.fori_loop(0, len(y), add, jnp.full((n, y.shape[1]), zero))

    return run


def _dense(n: int) -> Callable[..., jax.Array]:
    def run(values, index, y):
        tokens = jnp.arange(len(y))[:, None]
        full = jnp.zeros((len(y), n), y.dtype).at[tokens, index].set(values, unique_indices=True)
        return full.T @ y

    return run


def largest(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The `k` largest of `values` `[n]`, falling, and where they are: just what `top_k` gives.

    Of latents in groups, the `k` largest are no smaller than the `k`-th largest of the groups'
    maxima, and few others are as large. Those that are can be ranked by comparing all pairs.
    Should there be more than there is room for, the row is sorted after all.
    """
    members = _group_size(len(values), k)
    if members < 4 or values.dtype != jnp.float32:
        found, index = jax.lax.top_k(values, k)
        return found, index
    table = values.reshape(members, -1)
    room = k + k // 2 + 8
    places, count = _places(~(table < _bar(table.max(axis=0), k)), room)
    some = jnp.take(values, places, mode="fill", fill_value=-jnp.inf)
    index = jnp.zeros(k, jnp.int32).at[_ranks(some, places)].set(places, mode="drop")

    def by_sorting(
        last: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        # Depending on the loop, or else XLA sorts before it, and always.
        own, _ = jax.lax.optimization_barrier((values, last))
        found, index = jax.lax.top_k(own, k)
        return found, index, jnp.bool_(False)

    # A loop of one round or none: unlike a condition, under `vmap` it still costs nothing if none.
    state = (values[index], index, count > room)
    found, index, _ = jax.lax.while_loop(lambda state: state[2], by_sorting, state)
    return found, index


def _group_size(n: int, k: int) -> int:
    """Of how many latents a group is: at most 32, the bits of a word; at least `4 k` groups.

    1, no groups, from where comparing all pairs costs more than sorting.
    """
    sizes = (size for size in (32, 16, 8, 4) if n % size == 0 and n // size >= 4 * k)
    return next(sizes, 1) if k <= 96 else 1


def _ordered(values: jax.Array) -> jax.Array:
    """Float32 as int32 in the same order; its own inverse but for the type."""
    bits = values if values.dtype == jnp.int32 else jax.lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(2**31 - 1), bits)


def _bar(values: jax.Array, k: int) -> jax.Array:
    """The `k`-th largest of `values` or a little less: cut to a sign, an exponent and 9 bits."""
    bits = _ordered(values)

    def halve(bit: jax.Array, low: jax.Array) -> jax.Array:
        middle = low + (jnp.int32(1) << (31 - bit))
        return jnp.where((bits >= middle).sum(dtype=jnp.int32) >= k, middle, low)

    low = jax.lax.fori_loop(0, 18, halve, jnp.int32(-(2**31)))
    return jax.lax.bitcast_convert_type(_ordered(low), jnp.float32)


def _places(mask: jax.Array, room: int) -> tuple[jax.Array, jax.Array]:
    """Where `mask` `[r, c]` is true, flat, `room` places, at most; and how many there are.

    Columns become words of bits. A slot's word is found among running sums of their counts, its
    bit among the bits. Slots to spare are given the place past the end.
    """
    n_rows, n_columns = mask.shape
    shifts = jnp.arange(n_rows, dtype=jnp.uint32)[:, None]
    words = (mask.astype(jnp.uint32) << shifts).sum(axis=0, dtype=jnp.uint32)
    ends = jnp.cumsum(jax.lax.population_count(words).astype(jnp.int32))
    slots = jnp.arange(room, dtype=jnp.int32)
    column = jnp.minimum(_first_beyond(ends, slots), n_columns - 1)
    word = words[column]
    number = slots - ends[column] + jax.lax.population_count(word).astype(jnp.int32)
    places = _nth_bit(word, number) * n_columns + column
    return jnp.where(slots < ends[-1], places, mask.size), ends[-1]


def _first_beyond(ends: jax.Array, slots: jax.Array) -> jax.Array:
    """For each of `slots`, how many of the rising `ends` are no larger."""
    rounds = len(ends).bit_length()

    def halve(bit: jax.Array, low: jax.Array) -> jax.Array:
        middle = low + (jnp.int32(1) << (rounds - 1 - bit))
        there = (middle <= len(ends)) & (ends[middle - 1] <= slots)
        return jnp.where(there, middle, low)

    return jax.lax.fori_loop(0, rounds, halve, jnp.zeros_like(slots))


def _nth_bit(words: jax.Array, number: jax.Array) -> jax.Array:
    """Which bit of each of `words` is number `number` of those that are set."""

    def halve(bit: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        place, left = state
        size = jnp.uint32(16) >> bit.astype(jnp.uint32)
        part = (words >> place.astype(jnp.uint32)) & ((jnp.uint32(1) << size) - 1)
        below = jax.lax.population_count(part).astype(jnp.int32)
        up = left >= below
        return place + jnp.where(up, size.astype(jnp.int32), 0), left - jnp.where(up, below, 0)

    return jax.lax.fori_loop(0, 5, halve, (jnp.zeros_like(number), number))[0]


def _ranks(values: jax.Array, places: jax.Array) -> jax.Array:
    """How many of `values` come before each: the larger ones, and equals at an earlier place."""
    mine, other = values[:, None], values[None]
    equal = (other == mine) & (places[None] < places[:, None])
    return ((other > mine) | equal).sum(axis=1, dtype=jnp.int32)


def tally(values: jax.Array, index: jax.Array, n: int) -> jax.Array:
    """`[n]`: for each row the sum of its values `[b, k]`."""

    def add(values, index):
        return jnp.zeros(n, values.dtype).at[index].add(values)

    def dense(values, index):
        return _dense(n)(values, index, jnp.ones((len(values), 1), values.dtype))[:, 0]

    return jax.lax.platform_dependent(values, index, cpu=add, default=dense)


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
