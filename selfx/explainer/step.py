"""One step of training: a pure function from a state and a batch to the next state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from selfx.explainer.batches import Batch
from selfx.explainer.injection import Scaling, injection
from selfx.explainer.lora import Adapters
from selfx.models.decoder import Decoder, forward


@struct.dataclass
class State:
    """All that training changes.

    Attributes:
      step: int32, steps taken.
      adapters: what is trained.
      optimizer: optax's state.
    """

    step: jax.Array
    adapters: Adapters
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class Optimization:
    """AdamW as the paper sets it (arXiv 2511.08579, released configs), rates chosen by the run.

    Attributes:
      learning_rate: the highest rate.
      schedule: `constant`, or `linear` down to 0 at the last step.
      warmup: steps of linear rise from 0.
      weight_decay: of AdamW.
      clip: the largest global gradient norm.
    """

    learning_rate: float = 5e-4
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0

    def rate(self, total: int) -> optax.Schedule:
        """The learning rate at every step of `total`."""
        after = max(total - self.warmup, 1)
        end = 0.0 if self.schedule == "linear" else self.learning_rate
        main = optax.linear_schedule(self.learning_rate, end, after)
        rise = optax.linear_schedule(0.0, self.learning_rate, max(self.warmup, 1))
        return optax.join_schedules([rise, main], [self.warmup]) if self.warmup else main

    def build(self, total: int) -> optax.GradientTransformation:
        """The optimiser for a run of `total` steps."""
        adamw = optax.adamw(self.rate(total), weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw)


def answer_loss(
    adapters: Adapters,
    model: Decoder,
    batch: Batch,
    scaling: Scaling,
    strength: float,
    remat: bool = False,
) -> jax.Array:
    """Mean cross-entropy over the batch's answer tokens, whatever the padding; a scalar.

    Logits are computed at the answer's positions alone: the vocabulary is the widest axis there is.
    """
    edits = injection(model, batch.vectors, batch.slots, scaling, strength, batch.layers)
    out = forward(
        model,
        batch.tokens,
        mask=batch.mask,
        edits=edits,
        lora=adapters,
        logits_at=batch.ask,
        remat=remat,
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch.answers)
    return (losses * batch.weights).sum() / jnp.maximum(batch.weights.sum(), 1)


def make_step(
    optimizer: optax.GradientTransformation,
    scaling: Scaling,
    strength: float,
    remat: bool = False,
) -> Callable[[State, Decoder, Batch], tuple[State, dict[str, jax.Array]]]:
    """The compiled step: `(state, model, batch) -> (state, {"loss", "grad_norm"})`.

    The state's memory is reused: do not touch the one that was given.
    """

    def step(state: State, model: Decoder, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        loss, grads = jax.value_and_grad(answer_loss)(
            state.adapters, model, batch, scaling, strength, remat
        )
        updates, moments = optimizer.update(grads, state.optimizer, state.adapters)
        adapters = optax.apply_updates(state.adapters, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return State(state.step + 1, adapters, moments), metrics

    return jax.jit(step, donate_argnums=0)


def init_state(adapters: Adapters, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.int32(0), adapters, optimizer.init(adapters))
