"""AdamW as the paper sets it (arXiv 2511.08579, released configs), rates chosen by the run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimiser's settings.

    Attributes:
      learning_rate: the highest rate, of the explainer's weights or adapters.
      schedule: `constant`, or down to 0 at the last step, `linear` or by a `cosine`.
      warmup: steps of linear rise from 0.
      weight_decay: of AdamW; what vectors go through does not decay.
      clip: the largest global gradient norm.
      reader_rate: the highest rate of what vectors go through: a few numbers, which want
        larger steps (SelfIE adapters take 0.01).
    """

    learning_rate: float = 5e-4
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    reader_rate: float = 1e-2

    def rate(self, total: int, highest: float | None = None) -> optax.Schedule:
        """The learning rate at every step of `total`."""
        highest = self.learning_rate if highest is None else highest
        after = max(total - self.warmup, 1)
        if self.schedule == "cosine":
            main = optax.cosine_decay_schedule(highest, after)
        else:
            end = 0.0 if self.schedule == "linear" else highest
            main = optax.linear_schedule(highest, end, after)
        rise = optax.linear_schedule(0.0, highest, max(self.warmup, 1))
        return optax.join_schedules([rise, main], [self.warmup]) if self.warmup else main

    def build(self, total: int) -> optax.GradientTransformation:
        """The optimiser of a `Trained` tree for a run of `total` steps."""
        weights = optax.adamw(self.rate(total), weight_decay=self.weight_decay)
        reader = optax.adamw(self.rate(total, self.reader_rate), weight_decay=0.0)
        split = optax.partition({"weights": weights, "reader": reader}, _labels)
        return optax.chain(optax.clip_by_global_norm(self.clip), split)


def _labels(trained: Any) -> Any:
    """`weights` or `reader` in every leaf's place."""
    weights, reader = (
        lambda tree, label=label: jax.tree.map(lambda _: label, tree)
        for label in ("weights", "reader")
    )
    return trained.replace(
        lora=weights(trained.lora), model=weights(trained.model), reader=reader(trained.reader)
    )
