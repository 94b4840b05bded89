"""One step of training: a pure function from a state and a batch to the next state.

Nothing else decides it: the batch and the random numbers are functions of the seed and the step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from selfx.explainer.batches import Batch
from selfx.explainer.injection import Way, inject
from selfx.explainer.lora import with_dropout
from selfx.explainer.reader import Reader
from selfx.explainer.trained import Trained, explaining
from selfx.models.decoder import Decoder, forward


@struct.dataclass
class Frozen:
    """What training reads and does not touch.

    Attributes:
      model: the explainer's weights.
      reader: the parts of what vectors go through that are given, such as a fitted projection.
    """

    model: Decoder
    reader: Reader | None = None


@struct.dataclass
class State:
    """All that training changes.

    Attributes:
      step: int32, steps taken.
      trained: the parts that are trained.
      optimizer: optax's state.
      sound: bool; False from the first step on whose loss or gradient was not finite. That step and
        all after it change nothing, so that the last good state is kept.
    """

    step: jax.Array
    trained: Trained
    optimizer: Any
    sound: jax.Array


@dataclasses.dataclass(frozen=True)
class How:
    """What of a run's settings a step is compiled for.

    Attributes:
      way: how vectors enter.
      depth: the target's layers, None for as many as the explainer has.
      dropout: of what enters LoRA.
      accumulate: in how many parts the batch goes through the model.
      remat: recompute instead of keeping.
      seed: of dropout.
    """

    way: Way
    depth: int | None = None
    dropout: float = 0.0
    accumulate: int = 1
    remat: bool = False
    seed: int = 0


def answer_logits(trained: Trained, frozen: Frozen, batch: Batch, how: How) -> jax.Array:
    """Float32 logits `[b, a, v]` at the answers' positions, and nowhere else: the vocabulary is the
    widest axis there is."""
    model = explaining(trained, frozen.model)
    reader = frozen.reader if trained.reader is None else trained.reader.over(frozen.reader)
    edits = inject(
        how.way, model, reader, batch.vectors, batch.slots, batch.layers, depth=how.depth
    )
    out = forward(
        model,
        batch.tokens,
        mask=batch.mask,
        edits=edits,
        lora=trained.lora,
        logits_at=batch.ask,
        remat=how.remat,
    )
    return out.logits


def total_loss(trained: Trained, frozen: Frozen, batch: Batch, how: How) -> jax.Array:
    """The sum of cross-entropies over the batch's answer tokens, whatever the padding; a scalar.

    Where several tokens could have come, with their shares instead of the answer's alone.
    """
    logits = answer_logits(trained, frozen, batch, how)
    if batch.likely is not None and batch.shares is not None:
        said = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.likely, axis=-1)
        losses = -(batch.shares * said).sum(axis=-1)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.answers)
    return (losses * batch.weights).sum()


def loss_and_gradient(
    trained: Trained, frozen: Frozen, batch: Batch, how: How, key: jax.Array
) -> tuple[jax.Array, Trained]:
    """The mean cross-entropy over all answer tokens of the batch, and its gradient.

    With `accumulate`, parts of the batch follow one another and only sums are kept: the same mean
    over the same tokens.
    """

    def sums(part: Batch, key: jax.Array) -> Any:
        def loss(trained: Trained) -> jax.Array:
            if how.dropout and trained.lora is not None:
                dropped = with_dropout(trained.lora, how.dropout, key)
                return total_loss(dataclasses.replace(trained, lora=dropped), frozen, part, how)
            return total_loss(trained, frozen, part, how)

        return jax.value_and_grad(loss)(trained)

    if how.accumulate == 1:
        total, grads = sums(batch, key)
    else:
        parts = jax.tree.map(lambda x: x.reshape(how.accumulate, -1, *x.shape[1:]), batch)
        keys = jax.random.split(key, how.accumulate)

        def add(carry: Any, part: Any) -> Any:
            return jax.tree.map(jnp.add, carry, sums(*part)), None

        nothing = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trained))
        (total, grads), _ = jax.lax.scan(add, nothing, (parts, keys))
    count = jnp.maximum(batch.weights.sum(), 1)
    return jax.tree.map(lambda x: x / count, (total, grads))


def make_step(
    optimizer: optax.GradientTransformation, how: How
) -> Callable[[State, Frozen, Batch], tuple[State, dict[str, jax.Array]]]:
    """The compiled step: `(state, frozen, batch) -> (state, {"loss", "grad_norm"})`.

    The state's memory is reused: do not touch the one that was given.
    """

    def step(state: State, frozen: Frozen, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        batch = jax.tree.map(jnp.asarray, batch)
        key = jax.random.fold_in(jax.random.key(how.seed), state.step)
        loss, grads = loss_and_gradient(state.trained, frozen, batch, how, key)
        norm = optax.tree.norm(grads)
        sound = state.sound & jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, moments = optimizer.update(grads, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        keep = functools.partial(jnp.where, sound)
        trained, moments = jax.tree.map(keep, (trained, moments), (state.trained, state.optimizer))
        return State(state.step + sound, trained, moments, sound), {"loss": loss, "grad_norm": norm}

    return jax.jit(step, donate_argnums=0)


def init_state(trained: Trained, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.int32(0), trained, optimizer.init(trained), jnp.bool_(True))
