"""What a dictionary is trained to do: reconstruct, from few latents; one function for each kind.

Inputs and targets come centred and scaled to a variance of 1 a coordinate, so that a loss is a
share of the variance, and rates and weights mean the same at every site.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.features.training.jump import jump, step
from selfx.features.training.sparse import kth_largest, mix, pick, tally

Kind = Literal["topk", "batchtopk", "matryoshka", "jumprelu"]


@struct.dataclass
class Weights:
    """One dictionary in training.

    Attributes:
      enc: `[n, d]`, a latent's direction in what is read.
      b_enc: `[n]`.
      dec: `[n, d]`, its direction in what is given, of unit length.
      b_dec: `[d]`.
      threshold: `[n]` in `jumprelu`, as it is and not its logarithm, in float32: steps in the
        logarithm hardly move it, and small ones vanish in fewer bits. Else None.
    """

    enc: jax.Array
    b_enc: jax.Array
    dec: jax.Array
    b_dec: jax.Array
    threshold: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The settings that decide the loss.

    Attributes:
      kind: `topk` (Gao et al. 2024, arXiv 2406.04093): a token's `k` largest latents; `batchtopk`
        (Bussmann et al. 2024, arXiv 2412.06410): `k` a token on average over the batch;
        `matryoshka` (Bussmann et al. 2025, arXiv 2503.17547): the same, each prefix of the
        dictionary reconstructing by itself; `jumprelu` (Rajamanoharan et al. 2024,
        arXiv 2407.14435): latents above a threshold that is learned, `k` the aim.
      most: in `batchtopk` and `matryoshka`, how many times `k` one token may have; what it would
        have beyond goes to other tokens of the batch.
      prefixes: of `matryoshka`, as shares of the dictionary, the last of them 1.
      aux: how many dead latents at a time reconstruct what the others leave; 0 for none. Those
        dead for longest; if more are dead than this, the others' turn comes. (The paper takes each
        token's `aux` largest among all that are dead: the same where no more are.)
      aux_weight: of that loss.
      sparsity: weight of `(L0 / k - 1)^2` in `jumprelu`.
      bandwidth: how near to its threshold a latent teaches it, in `jumprelu`.
    """

    kind: Kind = "topk"
    _: dataclasses.KW_ONLY
    most: int = 4
    prefixes: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    aux: int = 256
    aux_weight: float = 1 / 32
    sparsity: float = 1.0
    bandwidth: float = 0.1

    def check(self) -> None:
        """Raises SelfxError for settings that mean nothing."""
        if self.kind not in get_args(Kind):
            raise SelfxError(f"kind {self.kind!r}", expected=" or ".join(get_args(Kind)))
        shares = (0.0, *self.prefixes)
        if shares[-1] != 1 or any(a >= b for a, b in zip(shares, shares[1:], strict=False)):
            raise SelfxError(f"prefixes {self.prefixes}", expected="rising shares, the last one 1")
        for name in ("aux", "aux_weight", "sparsity"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SelfxError(f"{name} {getattr(self, name)}", expected="0 or more")
        if self.most < 1 or not 0 < self.bandwidth < float("inf"):
            raise SelfxError(
                f"most {self.most}, bandwidth {self.bandwidth}", expected="positive numbers"
            )


@struct.dataclass
class Seen:
    """What a loss leaves behind.

    Attributes:
      error: sum of squares not reconstructed.
      variance: sum of squares of the target about its mean.
      on: latents that were on, over all tokens.
      fired: bool `[n]`, latents that were on at any token.
      floor: the smallest value let through, of the rules with one for the whole batch.
    """

    error: jax.Array
    variance: jax.Array
    on: jax.Array
    fired: jax.Array
    floor: jax.Array


def loss(
    weights: Weights,
    quiet: jax.Array,
    k: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    objective: Objective,
    k_max: int,
    revive: bool,
) -> tuple[jax.Array, Seen]:
    """The loss, a scalar, and what was seen on the way.

    Args:
      weights: of one dictionary.
      quiet: int32 `[n]`, steps for which a latent that counts as dead has been so; else 0.
      k: int32, how many latents.
      x: `[b, d]`, what is read.
      y: `[b, d]`, what shall be given.
      objective: the settings.
      k_max: static, no smaller than `k`.
      revive: static, whether to add the loss of dead latents.
    """
    form = _dense if objective.kind == "jumprelu" else _sparse
    wholes, on, fired, floor, cost = form(weights, k, x, objective, k_max)
    errors = [y - weights.b_dec - whole for whole in wholes]
    total = cost + sum(jnp.square(e).sum(axis=1).mean() for e in errors) / len(errors) / y.shape[1]
    if revive:
        total = total + objective.aux_weight * _dead(weights, quiet, x, errors[-1], objective.aux)
    spare = jnp.square(y - y.mean(axis=0)).sum()
    return total, Seen(jnp.square(errors[-1]).sum(), spare, on, fired, floor)


def _sparse(
    weights: Weights, k: jax.Array, x: jax.Array, objective: Objective, k_max: int
) -> tuple[list[jax.Array], jax.Array, jax.Array, jax.Array, jax.Array]:
    """Reconstructions, the whole one last; latents on; which; the floor; further costs."""
    n = len(weights.b_enc)
    whole_batch = objective.kind != "topk"
    room = min(k_max * objective.most, n) if whole_batch else k_max
    values, index = pick(x, weights.enc, weights.b_enc, room)
    values = jax.nn.relu(values)
    if whole_batch:
        bar = kth_largest(jax.lax.stop_gradient(values), k * len(x))
        values = jnp.where(values >= bar, values, 0.0)
    else:
        values = jnp.where(jnp.arange(room) < k, values, 0.0)
    on = values > 0
    fired = tally(on.astype(x.dtype), index, n) > 0
    floor = jnp.where(on, values, jnp.inf).min()
    prefixes = objective.prefixes if objective.kind == "matryoshka" else (1.0,)
    wholes = _nested(values, index, weights.dec, prefixes)
    return wholes, on.sum(), fired, floor, jnp.float32(0)


def _nested(
    values: jax.Array, index: jax.Array, rows: jax.Array, prefixes: Sequence[float]
) -> list[jax.Array]:
    """What each prefix of the dictionary gives, `[b, d]`: running sums of what lies between."""
    ends = [0, *(max(1, round(share * len(rows))) for share in prefixes)]
    total, wholes = jnp.float32(0), []
    for start, end in zip(ends, ends[1:], strict=False):
        within = (index >= start) & (index < end)
        part = values if len(ends) == 2 else jnp.where(within, values, 0.0)
        total = total + mix(part, index, rows)
        wholes.append(total)
    return wholes


def _dense(
    weights: Weights, k: jax.Array, x: jax.Array, objective: Objective, k_max: int
) -> tuple[list[jax.Array], jax.Array, jax.Array, jax.Array, jax.Array]:
    """The same of `jumprelu`, whose cost draws the number of latents on to `k`."""
    pre = x @ weights.enc.T + weights.b_enc
    f = jump(pre, weights.threshold, objective.bandwidth)
    gates = step(pre, weights.threshold, objective.bandwidth)
    l0 = gates.sum(axis=1).mean()
    on = jax.lax.stop_gradient(gates) > 0
    cost = objective.sparsity * jnp.square(l0 / k - 1)
    return [f @ weights.dec], on.sum(), on.any(axis=0), jnp.float32(0), cost


def _dead(
    weights: Weights, quiet: jax.Array, x: jax.Array, error: jax.Array, count: int
) -> jax.Array:
    """How much of the error the longest-dead latents leave, a share of the variance (AuxK)."""
    since, index = jax.lax.top_k(quiet, min(count, len(quiet)))
    f = jax.nn.relu(x @ weights.enc[index].T + weights.b_enc[index])
    f = jnp.where(since > 0, f, 0.0)
    left = jax.lax.stop_gradient(error) - f @ weights.dec[index]
    return jnp.square(left).sum(axis=1).mean() / error.shape[1]


def start(key: jax.Array, n: int, width: int, out_width: int, mirrored: bool) -> Weights:
    """Weights before the first step: random unit rows, the encoder reading what they write.

    Args:
      key: of the draw.
      n: latents.
      width: of what is read.
      out_width: of what is given.
      mirrored: whether both are the same thing; else the encoder is drawn by itself.
    """
    writing, reading = jax.random.split(key)
    dec = unit(jax.random.normal(writing, (n, out_width)))
    enc = dec.copy() if mirrored else unit(jax.random.normal(reading, (n, width)))
    return Weights(enc, jnp.zeros(n), dec, jnp.zeros(out_width), None)


def unit(rows: jax.Array) -> jax.Array:
    """Rows `[n, d]` brought to length 1."""
    return rows * (1 / jnp.maximum(jnp.sqrt(row_sums(rows * rows)), 1e-8))


def row_sums(rows: jax.Array) -> jax.Array:
    """The sum of each of the rows `[n, d]`, `[n, 1]`, as a product.

    A plain sum XLA's CPU compiler merges with all that leads to it, and then writes out numbers
    that are the same everywhere, such as a rate, as arrays as large as the rows.
    """
    ones = jnp.ones((rows.shape[1], 1), rows.dtype)
    return jnp.matmul(rows, ones, precision=jax.lax.Precision.HIGHEST)
