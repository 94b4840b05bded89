"""Asking an explainer with a measure of how sure it is, with its vectors and without."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.explainer.answer import Explainer, answer, own_vectors
from selfx.explainer.likelihood import log_probabilities
from selfx.progress import Report, silent
from selfx.tasks.example import Example


@dataclasses.dataclass(frozen=True)
class Sureness:
    """How likely an explainer finds a text.

    Attributes:
      log_probability: of all its tokens and its end.
      tokens: how many these are.
    """

    log_probability: float
    tokens: int

    @property
    def probability(self) -> float:
        """Of the whole."""
        return math.exp(self.log_probability)

    @property
    def per_token(self) -> float:
        """The geometric mean of the tokens' probabilities."""
        return math.exp(self.log_probability / self.tokens)

    def to_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {
            "probability": self.probability,
            "per_token": self.per_token,
            "log_probability": self.log_probability,
            "tokens": self.tokens,
        }


@dataclasses.dataclass(frozen=True)
class Reply:
    """An explainer's answer.

    Attributes:
      text: the answer.
      sure: how likely it is.
      blind: how likely the same answer is with zeros for vectors; None where there are none.
      cut: whether it was cut off before its end.
    """

    text: str
    sure: Sureness
    blind: Sureness | None
    cut: bool


def replies(
    explainer: Explainer,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int = 8,
    report: Report = silent,
) -> list[Reply]:
    """The explainer's answers in the order of the examples, and how sure it is of each.

    Raises:
      SelfxError: as `answer`.
    """
    size = min(batch_size, len(examples)) or 1
    how: dict[str, Any] = {"batch_size": size, "report": report}
    beams = explainer.training.beams
    texts = answer(explainer, examples, max_new_tokens=max_new_tokens, beams=beams, **how)
    sure = sureness(explainer, examples, texts, **how)
    zeros = np.zeros_like(own_vectors(examples, explainer.origin.width))
    blind: list[Sureness | None] = [None] * len(examples)
    read = [row for row, example in enumerate(examples) if example.vectors is not None]
    if read:
        some = [examples[row] for row in read]
        found = sureness(explainer, some, [texts[row] for row in read], zeros[read], **how)
        for row, each in zip(read, found, strict=True):
            blind[row] = each
    return [
        # The end is not among the tokens that an answer is cut after.
        Reply(text, each, without, each.tokens > max_new_tokens)
        for text, each, without in zip(texts, sure, blind, strict=True)
    ]


def sureness(
    explainer: Explainer,
    examples: Sequence[Example],
    texts: Sequence[str],
    vectors: np.ndarray | None = None,
    **how: Any,
) -> list[Sureness]:
    """How likely the explainer finds each text as an answer, as `log_probabilities` has it."""
    sums, counts = log_probabilities(explainer, examples, texts, vectors, **how)
    return [Sureness(float(a), int(n)) for a, n in zip(sums, counts, strict=True)]
