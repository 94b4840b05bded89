"""Steps at a learned threshold, and the slopes that teach it (arXiv 2407.14435).

A step has no slope of its own. In its place stands how many latents are within half a bandwidth of
the threshold, on either side: what moving it a little would switch. It reaches the threshold alone.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def jump(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    """`pre` where above `threshold`, else 0; with a slope for the threshold too."""
    return jnp.where(pre > threshold, pre, 0.0)


def _jump_forward(pre, threshold, bandwidth):
    return jump(pre, threshold, bandwidth), (pre, threshold)


def _jump_backward(bandwidth, kept, slope):
    pre, threshold = kept
    near = jnp.where(jnp.abs(pre - threshold) < bandwidth / 2, slope, 0.0)
    return jnp.where(pre > threshold, slope, 0.0), -threshold / bandwidth * near.sum(axis=0)


jump.defvjp(_jump_forward, _jump_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def step(pre: jax.Array, threshold: jax.Array, bandwidth: float) -> jax.Array:
    """1 where `pre` is above `threshold`, else 0; a slope for the threshold alone."""
    return (pre > threshold).astype(pre.dtype)


def _step_forward(pre, threshold, bandwidth):
    return step(pre, threshold, bandwidth), (pre, threshold)


def _step_backward(bandwidth, kept, slope):
    pre, threshold = kept
    near = jnp.where(jnp.abs(pre - threshold) < bandwidth / 2, slope, 0.0)
    return jnp.zeros_like(pre), -near.sum(axis=0) / bandwidth


step.defvjp(_step_forward, _step_backward)
