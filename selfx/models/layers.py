"""The small parts of a decoder: linear maps, norms, activation functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from selfx.models.config import Config

LINEAR = "linear"
"""The name under which a backward pass may keep what a linear map gave."""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
"""`{name in a config: function}`."""


class Adapter(Protocol):
    """What may stand beside a frozen linear map: any pytree that maps its input to a correction."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """The correction `[n, out]` for inputs `[n, in]`."""
        ...


class Linear(nnx.Module):
    """Weights of `x @ w + b`: `w` is `[in, out]`, `b` is `[out]` or None."""

    def __init__(self, n_in: int, n_out: int, bias: bool, key: jax.Array, dtype: Any):
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


class Norm(nnx.Module):
    """Weights of a norm over the last axis: `w` `[d]`, and `b` `[d]` if it is a LayerNorm."""

    def __init__(self, width: int, config: Config, dtype: Any):
        plus_one, layer = config.norm == "rms_plus_one", config.norm == "layer"
        self.w = nnx.Param((jnp.zeros if plus_one else jnp.ones)(width, dtype))
        self.b = nnx.Param(jnp.zeros(width, dtype)) if layer else None

    def __call__(self, x: jax.Array, config: Config) -> jax.Array:
        """`x` normed, of the same shape and dtype; sums are taken in float32.

        RMSNorm (arXiv 1910.07467) rounds to the dtype of `x` before its weight is applied, unless
        the weight is stored as a distance from 1 (Gemma); LayerNorm is arXiv 1607.06450.
        """
        y = x.astype(jnp.float32)
        if self.b is not None:
            y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + config.norm_eps)
        if config.norm == "rms":
            return self.w[...] * y.astype(x.dtype)
        w = self.w[...].astype(jnp.float32)
        if self.b is None:
            return (y * (1 + w)).astype(x.dtype)
        return (y * w + self.b[...].astype(jnp.float32)).astype(x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, which never leaves `(-cap, cap)`; `x` itself without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)
