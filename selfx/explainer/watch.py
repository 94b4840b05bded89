"""Looking at held-out examples while training: loss, exact match, and what the vectors add to them.

The same questions are asked with their vectors and with zeros in their place; the difference is the
activation lift. Both are teacher-forced: an answer whose every token is the likeliest after the
true ones before it is the answer that greedy decoding gives, so this exact match is that of asking,
unless several answers are written at once for the likeliest (`Training.beams`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.explainer.batches import Batch, Row, collate
from selfx.explainer.step import Frozen, How, answer_logits
from selfx.explainer.trained import Trained
from selfx.interventions.batching import chunks
from selfx.tasks.example import Example

MOST = 64
"""Held-out examples that are looked at, at most."""


def divide(
    examples: Sequence[Example], share: float, seed: int, most: int = MOST
) -> tuple[list[Example], list[Example]]:
    """`(to learn from, kept back)`: whole groups are kept back, about `share` of the examples and
    at most `most`.

    None is where that would be less than one, or all.
    """
    groups = sorted({example.group for example in examples})
    wanted = min(round(share * len(examples)), most)
    order = np.random.default_rng((seed, 7)).permutation(len(groups))
    sizes: dict[str, int] = {}
    for example in examples:
        sizes[example.group] = sizes.get(example.group, 0) + 1
    kept: set[str] = set()
    for index in order[:-1]:
        if sum(sizes[group] for group in kept) >= wanted:
            break
        kept.add(groups[index])
    watched = [example for example in examples if example.group in kept][:most]
    return [example for example in examples if example.group not in kept], watched


class Watch:
    """Looks at held-out rows, and remembers which look was best.

    Attributes:
      best: the lowest held-out loss yet.
      since: looks since then.
    """

    def __init__(self, rows: Sequence[Row], how: How, *, size: int, width: int, vectors: int):
        self.forced = Forced(rows, how, size=size, width=width, vectors=vectors)
        self.reads = any(row.slots for row in rows)
        self.best, self.since = math.inf, 0

    def recall(self, log: Sequence[str]) -> None:
        """Takes up the looks in the lines of a log."""
        for line in log:
            if "held_out_loss" in (found := json.loads(line)):
                self.judge(found["held_out_loss"])

    def judge(self, loss: float) -> bool:
        """Whether a held-out loss is the lowest yet; counts those that are not."""
        better = loss < self.best
        self.best, self.since = (loss, 0) if better else (self.best, self.since + 1)
        return better

    def look(self, trained: Trained, frozen: Frozen) -> dict[str, float]:
        """`held_out_loss` and `held_out_exact` with the vectors, `zero_…` without, the lifts."""
        loss, exact = self.forced(trained, frozen).means()
        found = {"held_out_loss": loss, "held_out_exact": exact}
        if self.reads:
            zero_loss, zero_exact = self.forced(trained, frozen, np.zeros_like).means()
            found |= {"zero_loss": zero_loss, "zero_exact": zero_exact}
            found |= {"loss_lift": zero_loss - loss, "lift": exact - zero_exact}
        return found


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How true answers fared, each `[n]` in the order of the rows.

    Attributes:
      loss: summed over an answer's tokens.
      tokens: how many those are.
      right: whether greedy decoding says the answer, to the token.
    """

    loss: np.ndarray
    tokens: np.ndarray
    right: np.ndarray

    def means(self) -> tuple[float, float]:
        """The loss a token, and the share that is right."""
        return float(self.loss.sum() / self.tokens.sum()), float(self.right.mean())


class Forced:
    """True answers under teacher forcing: a forward pass for every batch, compiled once."""

    def __init__(self, rows: Sequence[Row], how: How, *, size: int, width: int, vectors: int):
        self.order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        self.parts = [*chunks(self.order, size)]
        self.batches = [
            collate([rows[i] for i in part], size, width, vectors) for part in self.parts
        ]
        self._measure = _measure(how)

    def __call__(
        self,
        trained: Trained,
        frozen: Frozen,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Outcome:
        """What comes out, with vectors `[b, m, d]` as they are or as `change` makes them."""
        found = []
        for part, batch in zip(self.parts, self.batches, strict=True):
            if change is not None:
                batch = dataclasses.replace(batch, vectors=change(batch.vectors))
            found.append(np.asarray(self._measure(trained, frozen, batch), float)[:, : len(part)])
        columns = np.concatenate(found, axis=1)
        back = np.empty_like(columns)
        back[:, self.order] = columns
        return Outcome(*back)


def _measure(how: How) -> Callable[[Trained, Frozen, Batch], Any]:
    """Compiles: `[3, b]` summed loss, tokens, and whether all are right."""

    def measure(trained: Trained, frozen: Frozen, batch: Batch) -> jax.Array:
        logits = answer_logits(trained, frozen, batch, how)
        said = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(said, batch.answers[..., None], axis=-1)[..., 0]
        asked = batch.weights > 0
        right = ((logits.argmax(axis=-1) == batch.answers) | ~asked).all(axis=-1)
        return jnp.stack([(losses * batch.weights).sum(axis=1), asked.sum(axis=1), right])

    return jax.jit(measure)
