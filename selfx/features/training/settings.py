"""The settings of dictionaries in training, and the finished ones in the common form."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import optax

from selfx.errors import SelfxError
from selfx.features.dictionaries.sae import Origin, Sae
from selfx.features.training.grid import Grid, Members, Scales
from selfx.features.training.objective import Objective


@dataclasses.dataclass(frozen=True)
class SaeTraining:
    """The settings of a run; with the model, the text and the seed they decide every number in it.

    A dictionary is trained for every combination of layer, width, `k`, rate and seed, all at once.

    Attributes:
      layers: whose activations.
      widths: numbers of latents, `n`.
      ks: latents a token; in `jumprelu` the aim.
      rates: the highest learning rates of Adam.
      seeds: of the dictionaries' starts.
      site: what is read.
      out_site: what is reconstructed, for a transcoder; None is what is read.
      objective: kind and loss.
      tokens: how many to train on, passes over the text repeated as needed.
      batch_size: tokens a step.
      warmup: share of the steps in which the rate rises from 0.
      decay: share of the steps, the last ones, in which it falls to 0.
      dead_after: tokens without being on after which a latent counts as dead.
      threshold: where thresholds start in `jumprelu`, in deviations of a coordinate.
      buffer: places in the shuffled buffer.
      rows: rows of text that the model reads at a time.
      seed: of the order of the text.
    """

    layers: tuple[int, ...] = (0,)
    widths: tuple[int, ...] = (4096,)
    ks: tuple[int, ...] = (32,)
    rates: tuple[float, ...] = (1e-3,)
    seeds: tuple[int, ...] = (0,)
    site: str = "resid_post"
    out_site: str | None = None
    objective: Objective = Objective()
    tokens: int = 1_000_000
    batch_size: int = 2048
    warmup: float = 0.05
    decay: float = 0.2
    dead_after: int = 250_000
    threshold: float = 2.0
    buffer: int = 32_768
    rows: int = 16
    seed: int = 0

    @property
    def steps(self) -> int:
        """How many batches."""
        return self.tokens // self.batch_size

    @property
    def combinations(self) -> list[tuple[int, float, int]]:
        """`(k, rate, seed)` of each member of a layer, in order."""
        return list(itertools.product(self.ks, self.rates, self.seeds))

    def members(self) -> Members:
        """The same as arrays."""
        ks, rates, seeds = zip(*self.combinations, strict=True)
        return Members(jnp.array(ks, jnp.int32), jnp.array(rates), jnp.array(seeds, jnp.int32))

    def schedule(self) -> optax.Schedule:
        """What rates are multiplied by at each step: up, level, down."""
        total = self.steps
        rise, fall = (round(share * total) for share in (self.warmup, self.decay))

        def factor(step: jax.Array) -> jax.Array:
            up = jnp.minimum((step + 1) / max(rise, 1), 1.0)
            return jnp.minimum(up, jnp.clip((total - step) / max(fall, 1), 0.0, 1.0))

        return factor

    def names(self, width: int) -> list[list[str]]:
        """What the dictionaries of a width are called, by layer and member: what differs."""
        return [
            [self._name(layer, width, *each) for each in self.combinations] for layer in self.layers
        ]

    def _name(self, layer: int, width: int, k: int, rate: float, seed: int) -> str:
        parts = [f"layer{layer}", f"n{width}", f"k{k}"]
        parts += [f"rate{rate:g}"] if len(self.rates) > 1 else []
        parts += [f"seed{seed}"] if len(self.seeds) > 1 else []
        return "-".join(parts)

    def check(self) -> None:
        """Raises SelfxError for settings that no run can have."""
        self.objective.check()
        for name in ("layers", "widths", "ks", "rates", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SelfxError(f"{name} {values}", expected="one or more, each once")
        for name in ("widths", "ks", "rates", "batch_size", "buffer", "rows", "dead_after"):
            values = getattr(self, name)
            if not all(0 < value < math.inf for value in _several(values)):
                raise SelfxError(f"{name} {values}", expected="positive numbers")
        if self.out_site is not None and self.objective.kind == "topk":
            raise SelfxError(
                "a transcoder of kind 'topk'",
                expected="batchtopk, matryoshka or jumprelu: SAELens' layout has no other",
            )
        if max(self.ks) > min(self.widths):
            raise SelfxError(f"k {max(self.ks)} of {min(self.widths)} latents", expected="fewer")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1 and self.threshold >= 0):
            raise SelfxError(
                f"warmup {self.warmup}, decay {self.decay}, threshold {self.threshold}",
                expected="shares of the run, and a threshold of 0 or more",
            )
        if self.steps < 1:
            raise SelfxError(f"{self.tokens} tokens", expected=f"at least {self.batch_size}")


def _several(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)


FOLDS = (
    "centre and scale of the inputs in training into w_enc and b_enc",
    "scale of the outputs in training into w_enc, b_enc and threshold, their centre into b_dec",
)


def finished(
    training: SaeTraining, grid: Grid, scales: Scales, at: tuple[int, int], origin: Origin
) -> Sae:
    """The dictionary `at` (layer, member) of a grid, for activations as the model has them.

    One trained to share its latents out over a batch has a threshold in its place, the mean of the
    batches' own: alone, a token has no batch (`jumprelu`, as its authors propose).
    """
    layer, member = at
    weights = jax.tree.map(lambda x: x[at], grid.weights)
    scale, out_scale = scales.scale[layer], scales.out_scale[layer]
    w_enc = weights.enc.T * (out_scale / scale)
    b_enc = out_scale * weights.b_enc - scales.centre[layer] @ w_enc
    kind = training.objective.kind
    threshold = weights.threshold
    if kind in ("batchtopk", "matryoshka"):
        threshold = jnp.full(len(b_enc), grid.floor[at])
    return Sae(
        w_enc,
        b_enc,
        weights.dec,
        out_scale * weights.b_dec + scales.out_centre[layer],
        threshold=None if threshold is None else threshold * out_scale,
        rule="topk" if kind == "topk" else "jumprelu",
        k=training.combinations[member][0] if kind == "topk" else 0,
        site=training.site,
        layer=training.layers[layer],
        out_site=training.out_site,
        folds=FOLDS,
        origin=origin,
    )
