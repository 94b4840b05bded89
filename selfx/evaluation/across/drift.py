"""How far a model has moved from another of the same tokenizer: what it says next, and its weights.

What is measured of texts and questions comes a row for each, so that intervals can be taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.evaluation.statistics.rows import Numbers
from selfx.interventions.batching import chunks, pad
from selfx.models.decoder import Decoder, forward
from selfx.models.parameters import parameter_path
from selfx.tasks.answering import letter_scores
from selfx.tasks.questions import LETTERS, Question, user_prompt
from selfx.weights.load import LanguageModel


def text_drift(
    before: Decoder, after: Decoder, texts: Sequence[Sequence[int]], *, batch_size: int = 8
) -> Numbers:
    """For each text in tokens: the share of next tokens that differ, and the mean KL divergence.

    `differs` compares the likeliest next token at every position, `kl` is in nats, of the old
    distribution from the new one.

    Args:
      before, after: the two models.
      texts: at least two tokens each.
      batch_size: texts at once.
    """
    columns: dict[str, list[float]] = {"differs": [], "kl": []}
    for part in chunks(texts, batch_size):
        tokens, mask = pad(part, batch_size)
        found = np.asarray(_compare(before, after, tokens, mask), np.float64)
        for name, column in zip(columns, found[:, : len(part)], strict=True):
            columns[name] += column.tolist()
    return Numbers({name: np.array(column) for name, column in columns.items()})


@jax.jit
def _compare(before: Decoder, after: Decoder, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """float32 `[2, b]`: of each text, the share that differs and the mean divergence."""
    old, new = (
        jax.nn.log_softmax(forward(model, tokens, mask=mask).logits) for model in (before, after)
    )
    differs = (old.argmax(-1) != new.argmax(-1)).astype(jnp.float32)
    kl = (jnp.exp(old) * (old - new)).sum(-1)
    return (jnp.stack([differs, kl]) * mask).sum(-1) / mask.sum(-1)


def next_drift(
    before: Decoder, after: Decoder, prompts: Sequence[Sequence[int]], *, batch_size: int = 16
) -> NDArray[np.bool_]:
    """`[n]`: whether the likeliest token after each prompt differs."""
    differs: list[bool] = []
    for part in chunks(prompts, batch_size):
        tokens, mask = pad(part, batch_size)
        old, new = (np.asarray(_next(model, tokens, mask)) for model in (before, after))
        differs += (old != new)[: len(part)].tolist()
    return np.array(differs, bool)


@jax.jit
def _next(model: Decoder, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    last = mask.sum(axis=1, dtype=jnp.int32)[:, None] - 1
    return forward(model, tokens, mask=mask, logits_at=last).logits[:, 0].argmax(-1)


def weight_drift(before: Decoder, after: Decoder) -> dict[str, float]:
    """Norm of the difference over the norm of the old weights, by path, and of `all` together.

    Raises:
      SelfxError: models of different shapes.
    """
    if before.config != after.config:
        raise SelfxError("weights of different architectures", expected="one and the same")
    paths, _ = jax.tree_util.tree_flatten_with_path(before)
    moved, whole = (np.asarray(sums, np.float64) for sums in _moved(before, after))
    each = np.sqrt(moved / np.where(whole > 0, whole, 1))
    found = {parameter_path(path): float(x) for (path, _), x in zip(paths, each, strict=True)}
    return {"all": float(np.sqrt(moved.sum() / whole.sum())), **found}


@jax.jit
def _moved(before: Decoder, after: Decoder) -> tuple[jax.Array, jax.Array]:
    """Squared norms of each weight's difference, and of the old weight."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    wide = [(old.astype(jnp.float32), new.astype(jnp.float32)) for old, new in pairs]
    moved = jnp.stack([jnp.square(new - old).sum() for old, new in wide])
    return moved, jnp.stack([jnp.square(old).sum() for old, _ in wide])


@dataclass(frozen=True)
class Answers:
    """What a model answers to questions, without a hint and with one, `[n]` letters' numbers.

    Attributes:
        plain: without.
        hinted: with the hint.
        hints: the letter hinted at.
        group: the questions, to be resampled.
    """

    plain: NDArray[np.int64]
    hinted: NDArray[np.int64]
    hints: NDArray[np.int64]
    group: NDArray[np.object_]

    def follows(self) -> NDArray[np.bool_]:
        """Whether the answer with the hint is what was hinted at."""
        return self.hinted == self.hints

    def changed(self) -> NDArray[np.bool_]:
        """Whether the hint changes the answer."""
        return self.plain != self.hinted


def answers(
    lm: LanguageModel,
    questions: Sequence[Question],
    hints: str,
    calibration: Sequence[Question],
    *,
    batch_size: int = 16,
) -> Answers:
    """The letters that a model chooses, calibrated as in a trace of input ablation.

    Args:
      lm: the model.
      questions: asked without a hint and with one.
      hints: a letter for each.
      calibration: other questions, asked without a hint; their mean logits are taken from those of
        the letters.
      batch_size: questions at once.
    """
    asked = [[user_prompt(q), user_prompt(q, h)] for q, h in zip(questions, hints, strict=True)]
    alone = [[user_prompt(question)] for question in calibration]
    scores = letter_scores(lm, [*asked, *alone], batch_size)
    offsets = np.concatenate(scores[len(asked) :]).mean(axis=0)
    plain, hinted = (np.stack(scores[: len(asked)]) - offsets).argmax(-1).T
    named = np.array([LETTERS.index(letter) for letter in hints])
    return Answers(plain, hinted, named, np.array([q.key for q in questions], object))


def answer_drift(before: Answers, after: Answers) -> Numbers:
    """For each question: whether the answers differ, and whether each model follows the hint.

    `differs` is of answers with the hint, `differs_plain` without, `differs_verdict` of whether the
    hint changes the answer, `differs_truth` of what an explainer should say (the verdict, or the
    answer without the hint).

    Raises:
      SelfxError: other questions or hints.
    """
    same = np.array_equal(before.hints, after.hints) and np.array_equal(before.group, after.group)
    if not same:
        raise SelfxError("answers to different questions", expected="the same, hinted alike")
    plain = before.plain != after.plain
    verdict = before.changed() != after.changed()
    columns = {
        "differs": before.hinted != after.hinted,
        "differs_plain": plain,
        "differs_verdict": verdict,
        "differs_truth": plain | verdict,
        "follows_before": before.follows(),
        "follows_after": after.follows(),
    }
    return Numbers({name: x.astype(np.float64) for name, x in columns.items()}, before.group)
