"""A judge that runs here: not what it would write, but how likely it finds each rating.

The mean over the tokens 1 to 5 tells apart what one written number cannot (Liu et al. 2023, arXiv
2303.16634, who estimate the same by asking often). What stands before the pair is most of the
question and the same in all, so it is run once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.evaluation.judge.rating import RATINGS, Pair, question
from selfx.features.descriptions.chat import user
from selfx.interventions.batching import chunks, pad, rows_for
from selfx.interventions.reuse import before, begin
from selfx.models.cache import Cache
from selfx.models.decoder import Decoder, forward
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

LEAST = 0.01
"""Where all ratings together are less likely than this, there is none to be read."""


@dataclasses.dataclass(frozen=True)
class BeliefJudge:
    """The rating that a model expects of its own reply.

    Attributes:
      lm: the model; without a chat template it reads the question and a newline.
      name: what it is called.
      about: for the record.
      batch_size: pairs at once; those of like length go together.
    """

    lm: LanguageModel
    name: str
    about: dict[str, Any]
    batch_size: int = 8

    def cost(self, pairs: Sequence[Pair]) -> None:
        """Nothing."""

    def __call__(self, pairs: Sequence[Pair], report: Report = silent) -> list[float | None]:
        """The expected rating over the tokens that name one; None where none is likely.

        Raises:
          SelfxError: no such tokens, or a question that is too long for the model.
        """
        rows = [self._ids(pair) for pair in pairs]
        longest, most = max(map(len, rows), default=0), self.lm.config.max_positions
        if longest > most:
            raise SelfxError(f"{longest} tokens to judge", expected=f"at most {most}")
        if not rows:
            return []
        ids, named = rating_tokens(self.lm.tokenizer)
        shared = self._shared(rows)
        start = np.asarray([rows[0][:shared]], np.int32)
        _, past = begin(self.lm.model, start, np.ones(start.shape, bool))
        found: list[float | None] = [None] * len(rows)
        for some in chunks(sorted(range(len(rows)), key=lambda i: len(rows[i])), self.batch_size):
            believed = self._batch(past, [rows[index][shared:] for index in some], ids)
            for index, likely in zip(some, believed, strict=True):
                found[index] = expected(likely, named)
        return found

    def _shared(self, rows: Sequence[Sequence[int]]) -> int:
        """How many tokens stand before any pair: a number that is the same for all questions."""
        one, other = self._ids(("a", "a")), self._ids(("Z", "Z"))
        most = _common(one, other)
        return min(_common(row, one[:most]) for row in rows)

    def _ids(self, pair: Pair) -> list[int]:
        tokenizer, asked = self.lm.tokenizer, question(pair)
        if not tokenizer.chat_template:
            return list(tokenizer(f"{asked}\n").input_ids)
        how: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
        text = tokenizer.apply_chat_template(list(user(asked)), **how)
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def _batch(self, past: Cache, rows: Sequence[Sequence[int]], ids: np.ndarray) -> np.ndarray:
        count = rows_for(len(rows), self.batch_size)
        tokens, mask = pad(rows, count)
        length = np.full(count, past.position.shape[1], np.int32)
        repeated = before(past, np.zeros(count, np.int32), length, room=tokens.shape[1])
        likely = _believed(self.lm.model, repeated, tokens, mask, ids)
        return np.asarray(likely, np.float64)[: len(rows)]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def expected(likely: np.ndarray, named: np.ndarray) -> float | None:
    """The mean of the ratings `[m]`, each as likely as `[m]` says; None where none is likely."""
    whole = float(likely.sum())
    return float(likely @ named) / whole if whole >= LEAST else None


def rating_tokens(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Int `[m]`: the tokens that say a rating, spaces aside; and `[m]`, which each says.

    Raises:
      SelfxError: a rating that no single token says.
    """
    digits = {str(rating): rating for rating in RATINGS}
    short = ((t, i) for t, i in tokenizer.get_vocab().items() if t[-1:] in digits and len(t) <= 3)
    said = {index: tokenizer.decode([index]).strip() for _, index in short}
    found = sorted((index, digits[text]) for index, text in said.items() if text in digits)
    if {rating for _, rating in found} != set(RATINGS):
        raise SelfxError("a tokenizer without a token for each rating", hint="judge greedily")
    ids, named = zip(*found, strict=True)
    return np.array(ids, np.int32), np.array(named, np.float64)


@jax.jit
def _believed(
    model: Decoder, past: Cache, tokens: jax.Array, mask: jax.Array, ids: jax.Array
) -> jax.Array:
    """float32 `[b, m]`: how likely each of these tokens is after texts that go on from `past`."""
    last = past.next_position[:, None] + mask.sum(axis=1, dtype=jnp.int32)[:, None] - 1
    logits = forward(model, tokens, mask=mask, cache=past, logits_at=last).logits[:, 0]
    return jax.nn.softmax(logits.astype(jnp.float32))[:, ids]
