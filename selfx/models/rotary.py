"""Rotary positions (arXiv 2104.09864) and their stretchings; layers may differ in theirs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from selfx.models.config import Config, Rope, RopeScaling

Tables = tuple[jax.Array, jax.Array]


def distinct(pattern: tuple, n_layers: int) -> tuple[tuple, np.ndarray]:
    """What occurs in a pattern over the layers, and int32 `[l]`, which of them each layer has."""
    kinds = tuple(dict.fromkeys(pattern[:n_layers]))
    chosen = [kinds.index(pattern[layer % len(pattern)]) for layer in range(n_layers)]
    return kinds, np.array(chosen, np.int32)


def rotary_tables(config: Config, positions: jax.Array) -> Tables | None:
    """Cosines and sines `[kinds, b, t, w/2]` in float32 for positions `[b, t]`, `w` what is turned.

    Padding counts as position 0. A layer without a rotary embedding among others with one turns by
    nothing, to the bit. None if no layer has one.
    """
    kinds, _ = distinct(config.ropes, config.n_layers)
    real = [rope for rope in kinds if rope is not None]
    if not real:
        return None
    positions = jnp.maximum(positions, 0).astype(jnp.float32)
    tables = {rope: _table(rope, config.d_head, positions) for rope in real}
    one, zero = jnp.ones_like(tables[real[0]][0]), jnp.zeros_like(tables[real[0]][0])
    pairs = [(one, zero) if rope is None else tables[rope] for rope in kinds]
    cosines, sines = zip(*pairs, strict=True)
    return jnp.stack(cosines), jnp.stack(sines)


def rotate(x: jax.Array, tables: Tables | None) -> jax.Array:
    """`x` `[b, t, heads, e]` turned by its position; the halves of what is turned form the pairs.

    Args:
      x: queries or keys.
      tables: cosines and sines `[b, t, w/2]` of one layer; coordinates from `w` on stay.
    """
    if tables is None:
        return x
    cos, sin = (table[:, :, None, :] for table in tables)
    turned = 2 * cos.shape[-1]
    first, second = jnp.split(x[..., :turned].astype(jnp.float32), 2, axis=-1)
    pairs = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([pairs.astype(x.dtype), x[..., turned:]], axis=-1)


def rotary_width(rope: Rope, d_head: int) -> int:
    """How many coordinates of a head are turned."""
    return int(d_head * rope.share)


def _table(rope: Rope, d_head: int, positions: jax.Array) -> Tables:
    """Cosines and sines `[b, t, w/2]` of one rotary embedding."""
    scaling, width = rope.scaling, rotary_width(rope, d_head)
    longest = positions.max(axis=1) + 1
    if scaling is not None and scaling.kind == "dynamic":
        inverse = _dynamic(rope.theta, scaling, width, longest)[:, None, :]
    elif scaling is not None and scaling.kind == "longrope":
        inverse = _longrope(rope.theta, scaling, width, longest)[:, None, :]
    else:
        inverse = jnp.asarray(_frequencies(rope, width), jnp.float32)
    angles = positions[..., None] * inverse
    factor = scaling.attention_factor if scaling is not None else 1.0
    return factor * jnp.cos(angles), factor * jnp.sin(angles)


def _frequencies(rope: Rope, width: int) -> np.ndarray:
    """Radians a token `[w/2]`, float64, under every scaling that does not depend on the text."""
    plain, scaling = _plain(rope.theta, width), rope.scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    return _yarn(plain, rope.theta, scaling, width)


def _plain(theta: float, width: int) -> np.ndarray:
    return theta ** (-np.arange(0, width, 2) / width)


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1: long waves slowed by `factor`, short ones kept, a linear blend between."""
    turns = scaling.original_max_positions * plain / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(plain: np.ndarray, theta: float, scaling: RopeScaling, width: int) -> np.ndarray:
    """YaRN (arXiv 2309.00071, eq. 23): dimensions that turn often are kept, the others slowed."""

    def dimension(rotations: float) -> float:
        ratio = scaling.original_max_positions / (rotations * 2 * math.pi)
        return width * math.log(ratio) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    span = high - low if high > low else 0.001
    slowed = np.clip((np.arange(width // 2) - low) / span, 0, 1)
    return slowed * plain / scaling.factor + (1 - slowed) * plain


def _dynamic(theta: float, scaling: RopeScaling, width: int, longest: jax.Array) -> jax.Array:
    """NTK-aware frequencies `[b, w/2]`: the base grows with each row's length past the original."""
    original = scaling.original_max_positions
    length = jnp.maximum(longest, original)
    grown = scaling.factor * length / original - (scaling.factor - 1)
    base = theta * grown ** (width / (width - 2))
    return base[:, None] ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


def _longrope(theta: float, scaling: RopeScaling, width: int, longest: jax.Array) -> jax.Array:
    """LongRoPE's frequencies `[b, w/2]`: one set of factors for short rows, one for long ones."""
    plain = _plain(theta, width)
    short, long = (
        jnp.asarray(plain / np.asarray(factors), jnp.float32)
        for factors in (scaling.short, scaling.long)
    )
    return jnp.where((longest > scaling.original_max_positions)[:, None], long, short)
