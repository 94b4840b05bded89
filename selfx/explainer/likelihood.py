"""How likely an explainer finds an answer: its tokens' log-probabilities, in one forward pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.answer import Explainer, check_vectors, own_vectors
from selfx.explainer.batches import Batch, Row, collate, row
from selfx.explainer.prompts import check_room
from selfx.explainer.step import Frozen, How, answer_logits
from selfx.explainer.trained import Trained
from selfx.progress import Report, silent
from selfx.tasks.example import Example


def log_probabilities(
    explainer: Explainer,
    examples: Sequence[Example],
    texts: Sequence[str],
    vectors: np.ndarray | None = None,
    *,
    batch_size: int = 8,
    report: Report = silent,
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 `[n]`, the summed log-probability of each text and its end as the answer to its
    example's question in the first wording; and int `[n]`, how many tokens that is.

    A text is cut into tokens as training does it; an answer that was written in other tokens counts
    as if in these.

    Args:
      explainer: who would say it.
      examples: the questions.
      texts: an answer to each.
      vectors: float32 `[n, m, d]` to read instead of the examples' own.
      batch_size: questions at once; those of like length go together.
      report: told of progress.

    Raises:
      SelfxError: texts of another number than examples, vectors of another width, or more tokens
        than the explainer reads.
    """
    found, counts = at_temperatures(
        explainer, examples, texts, vectors, (1.0,), batch_size=batch_size, report=report
    )
    return found[:, 0], counts


def at_temperatures(
    explainer: Explainer,
    examples: Sequence[Example],
    texts: Sequence[str],
    vectors: np.ndarray | None,
    temperatures: Sequence[float],
    *,
    batch_size: int = 8,
    report: Report = silent,
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 `[n, c]`, what `log_probabilities` has, once for each of `c` temperatures, by which
    all logits are divided; and int `[n]`, how many tokens that is.

    One pass serves them all.
    """
    if len(texts) != len(examples):
        raise SelfxError(
            f"{len(texts)} texts for {len(examples)} questions", expected="one for each"
        )
    check_vectors(examples, explainer)
    if vectors is None:
        vectors = own_vectors(examples, explainer.origin.width)
    rows = [
        _row(explainer, example, text, own)
        for example, text, own in zip(examples, texts, vectors, strict=True)
    ]
    check_room(max(map(len, rows), default=0), explainer.base.config)
    width, room = explainer.origin.width, vectors.shape[1]
    found = np.zeros((len(rows), len(temperatures)))
    divisors = np.asarray(temperatures, np.float32)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch = collate([rows[index] for index in part], batch_size, width, room)
        found[part] = np.asarray(_sums(explainer, batch, divisors), np.float64)[: len(part)]
        report(start + len(part), len(order), "answers weighed")
    return found, np.array([len(each.answer) for each in rows], int)


def _row(explainer: Explainer, example: Example, text: str, vectors: np.ndarray) -> Row:
    """The question with this text as its answer, and these vectors as far as it has room."""
    made = row(dataclasses.replace(example, answer=text), explainer.prompter)
    held = vectors[: len(made.slots)] if made.slots else None
    return dataclasses.replace(made, vectors=held)


def _sums(explainer: Explainer, batch: Batch, temperatures: np.ndarray) -> jax.Array:
    how = How(explainer.training.way, explainer.origin.layers)
    frozen = Frozen(explainer.model, explainer.reader)
    return _summed(Trained(lora=explainer.lora), frozen, batch, temperatures, how=how)


@functools.partial(jax.jit, static_argnames="how")
def _summed(
    trained: Trained, frozen: Frozen, batch: Batch, temperatures: jax.Array, *, how: How
) -> jax.Array:
    """float32 `[b, c]`: the summed log-probability of each row's answer at each temperature."""
    logits = answer_logits(trained, frozen, batch, how).astype(jnp.float32)

    def at(temperature: jax.Array) -> jax.Array:
        said = jax.nn.log_softmax(logits / temperature, axis=-1)
        each = jnp.take_along_axis(said, batch.answers[..., None], axis=-1)[..., 0]
        return jnp.where(batch.weights > 0, each, 0).sum(axis=1)

    return jax.lax.map(at, temperatures).T  # one at a time: the vocabulary is wide
