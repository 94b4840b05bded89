"""The small parts of a decoder: linear maps, RMSNorm, the rotary embedding."""

from __future__ import annotations

import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from selfx.models.config import Config, RopeScaling

LINEAR = "linear"
"""The name under which a backward pass may keep what a linear map gave."""


class Adapter(Protocol):
    """What may stand beside a frozen linear map: any pytree that maps its input to a correction."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """The correction `[n, out]` for inputs `[n, in]`."""
        ...


class Linear(nnx.Module):
    """Weights of `x @ w + b`: `w` is `[in, out]`, `b` is `[out]` or None."""

    def __init__(self, n_in: int, n_out: int, bias: bool, key: jax.Array, dtype: jnp.dtype):
        scale = 1 / math.sqrt(n_in)
        self.w = nnx.Param(scale * jax.random.normal(key, (n_in, n_out), dtype))
        self.b = nnx.Param(jnp.zeros(n_out, dtype)) if bias else None

    def __call__(self, x: jax.Array, adapter: Adapter | None = None) -> jax.Array:
        """The map applied to the last axis, plus the adapter's correction: `[..., out]`.

        Leading axes are flattened first: a contraction over two batch axes, which the gradient of
        an adapter would otherwise need, runs several times slower on CPU.
        """
        rows = x.reshape(-1, x.shape[-1])
        y = rows @ self.w[...]
        if self.b is not None:
            y = y + self.b[...]
        if adapter is not None:
            y = y + adapter(rows)
        return checkpoint_name(y, LINEAR).reshape(*x.shape[:-1], -1)


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """`x / rms(x) * weight` over the last axis, the mean square taken in float32."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return weight * y.astype(x.dtype)


def rotary_tables(config: Config, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines `[b, t, e/2]` in float32 for positions `[b, t]` (padding counts as 0)."""
    positions = jnp.maximum(positions, 0).astype(jnp.float32)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic":
        inverse = _dynamic_frequencies(config, scaling, positions)[:, None, :]
    else:
        inverse = jnp.asarray(_frequencies(config), jnp.float32)
    angles = positions[..., None] * inverse
    factor = scaling.attention_factor if scaling is not None else 1.0
    return factor * jnp.cos(angles), factor * jnp.sin(angles)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """`x` `[b, t, heads, e]` turned by its position; the halves of a head form the pairs."""
    cos, sin = (table[:, :, None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _frequencies(config: Config) -> np.ndarray:
    """Radians a token `[e/2]`, float64, under every scaling that does not depend on the text."""
    plain = config.rope_theta ** (-np.arange(0, config.d_head, 2) / config.d_head)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    return _yarn(plain, config, scaling)


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1: long waves slowed by `factor`, short ones kept, a linear blend between."""
    turns = scaling.original_max_positions * plain / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(plain: np.ndarray, config: Config, scaling: RopeScaling) -> np.ndarray:
    """YaRN (arXiv 2309.00071, eq. 23): dimensions that turn often are kept, the others slowed."""

    def dimension(rotations: float) -> float:
        ratio = scaling.original_max_positions / (rotations * 2 * math.pi)
        return config.d_head * math.log(ratio) / (2 * math.log(config.rope_theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.d_head - 1)
    span = high - low if high > low else 0.001
    slowed = np.clip((np.arange(config.d_head // 2) - low) / span, 0, 1)
    return slowed * plain / scaling.factor + (1 - slowed) * plain


def _dynamic_frequencies(config: Config, scaling: RopeScaling, positions: jax.Array) -> jax.Array:
    """NTK-aware frequencies `[b, e/2]`: the base grows with each row's length past the original."""
    original = scaling.original_max_positions
    length = jnp.maximum(positions.max(axis=1) + 1, original)
    grown = scaling.factor * length / original - (scaling.factor - 1)
    width = config.d_head
    base = config.rope_theta * grown ** (width / (width - 2))
    return base[:, None] ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
