"""How near a target was to other outcomes, as shares of the answers that could have been true."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.tasks.example import Example
from selfx.tasks.questions import LETTERS
from selfx.tasks.schema import ABLATION
from selfx.tasks.wording import answer_content, word

WITHOUT, WITH = "zeroshot_scores", "random_hint_scores"
"""The columns of the letters' scores, without and with the hint."""


def keeps_scores(examples: Sequence[Example]) -> bool:
    """Whether their trace kept the target's scores of all letters: that of input ablation does,
    unless the target wrote its answers."""
    return all(
        example.task == ABLATION and example.details.get(name) is not None
        for example in examples
        for name in (WITHOUT, WITH)
    )


def graded(
    examples: Sequence[Example], record: dict[str, Any], temperature: float
) -> list[Example]:
    """The examples with `likely`: each letter's answer, and its share.

    A letter's share is the softmax of the target's calibrated scores without the hint: near ties
    are told from certainties, which the one answer that came out ahead hides (Hinton et al. 2015,
    arXiv 1503.02531).

    Args:
      examples: of input ablation, with the scores in their details.
      record: what `trace.json` says, the letters' calibration among it.
      temperature: what the scores are divided by, in their own unit, nats.

    Raises:
      SelfxError: scores that are not one for each letter.
    """
    offsets = np.asarray(record.get("letter_offsets") or [0.0] * len(LETTERS), np.float64)
    return [
        dataclasses.replace(example, likely=_likely(example, offsets, temperature))
        for example in examples
    ]


def _likely(
    example: Example, offsets: np.ndarray, temperature: float
) -> tuple[tuple[str, float], ...]:
    scores = np.asarray(example.details[WITHOUT], np.float64)
    if scores.shape != offsets.shape:
        raise SelfxError(
            f"{scores.size} scores in example {example.id}",
            expected=f"{offsets.size}, one a letter",
        )
    lead = (scores - offsets - (scores - offsets).max()) / temperature
    shares = np.exp(lead) / np.exp(lead).sum()
    hinted = example.details["random_hint_prediction"].strip()
    return tuple(
        (word(letter != hinted, answer_content(letter)), float(share))
        for letter, share in zip(LETTERS, shares, strict=True)
    )
