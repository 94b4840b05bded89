"""Simulation: how strongly a feature would be on at every token if its description were true.

A simulator is any callable `(descriptions, texts) -> predictions`: for description `i` and each of
its texts, float32 `[t]` from 0 to 10. Two are here. `simulate` needs no other model: it holds the
description's own statements against the text (Statement.predict), and in free text looks for quoted
tokens, named classes and bare words. It understands wording, not meaning. `ModelSimulator` asks a
model trained for it, in the input format of the published simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.features.descriptions.statements import parse
from selfx.features.descriptions.words import reading
from selfx.features.exemplars.excerpts import Excerpt
from selfx.interventions.batching import bucket, chunks, pad
from selfx.models.decoder import Decoder, forward
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

Texts = Sequence[Excerpt]
Predictions = list[list[np.ndarray]]

GRADES = 11
"""Activations are told as whole numbers from 0 to 10; the simulator's logits 0 to 10 are these."""

QUESTION = "## Neuron Description: {}\n\n ## Input: "
"""What the published simulator reads before a text; the description's place is `{}`."""

MOVED = {128000: 128257, 128006: 128258, 128007: 128259, 128009: 128260}
"""Llama 3's own special tokens within a text, and the ids the published simulator has for them."""


class Simulator(Protocol):
    """Predicts activations from descriptions."""

    def __call__(self, descriptions: Sequence[str], texts: Sequence[Texts]) -> Predictions:
        """For each description, float32 `[t]` from 0 to 10 for each of its texts."""
        ...


def simulate(descriptions: Sequence[str], texts: Sequence[Texts]) -> Predictions:
    """What the descriptions say, held against the texts: the simulator that needs no model."""
    check_pairs(descriptions, texts)
    return [
        [statement.predict(reading(excerpt.pieces)) for excerpt in some]
        for statement, some in zip(map(parse, descriptions), texts, strict=True)
    ]


@struct.dataclass
class ModelSimulator:
    """A model that was trained to grade every token of a text by a description.

    Its input is the description in `question`, then the text's tokens; at each of these the
    softmax over the logits of ids 0 to 10 is its belief, and the expectation the prediction (Choi
    et al. 2024, and the released code of arXiv 2511.08579).

    Attributes:
      lm: the model; the texts' ids must be of its tokenizer.
      question: what comes before a text. Static.
      moved: ids of the text to give as others. Static.
      batch_size: texts at once. Static.
      report: told of progress. Static.
    """

    lm: LanguageModel = struct.field(pytree_node=False)
    question: str = struct.field(pytree_node=False, default=QUESTION)
    moved: tuple[tuple[int, int], ...] = struct.field(
        pytree_node=False, default=tuple(MOVED.items())
    )
    batch_size: int = struct.field(pytree_node=False, default=8)
    report: Report = struct.field(pytree_node=False, default=silent)

    def __call__(self, descriptions: Sequence[str], texts: Sequence[Texts]) -> Predictions:
        """For each description, the expectation at every token of each of its texts.

        Raises:
          SelfxError: a text without ids, or longer than the model can read.
        """
        check_pairs(descriptions, texts)
        asked = [self._row(d, e) for d, some in zip(descriptions, texts, strict=True) for e in some]
        order = sorted(range(len(asked)), key=lambda index: len(asked[index][0]))
        found: dict[int, np.ndarray] = {}
        for rows in chunks(order, self.batch_size):
            graded = self._batch([asked[index] for index in rows])
            found.update(zip(rows, graded, strict=True))
            self.report(len(found), len(asked), "texts simulated")
        ordered = (found[index] for index in range(len(asked)))
        return [[next(ordered) for _ in some] for some in texts]

    def _row(self, description: str, excerpt: Excerpt) -> tuple[list[int], int]:
        """The ids of a whole input, and how many of them are the text's."""
        if excerpt.ids is None:
            raise SelfxError(
                "a text of which only the words are known",
                expected="the tokens of the simulator's own tokenizer",
                hint="take the texts from exemplars of the same model",
            )
        changed = dict(self.moved)
        before = self.lm.tokenizer(self.question.format(description)).input_ids
        return [*before, *(changed.get(index, index) for index in excerpt.ids)], len(excerpt.ids)

    def _batch(self, rows: Sequence[tuple[list[int], int]]) -> list[np.ndarray]:
        tokens, mask = pad([ids for ids, _ in rows], self.batch_size)
        longest, most = int(mask.sum(axis=1).max()), self.lm.config.max_positions
        if longest > most:
            raise SelfxError(f"{longest} tokens to simulate", expected=f"at most {most}")
        width = bucket(max(size for _, size in rows))
        places = np.full((self.batch_size, width), -1, np.int32)
        for place, (ids, size) in zip(places, rows, strict=False):
            place[:size] = np.arange(len(ids) - size, len(ids))
        places[len(rows) :] = places[len(rows) - 1]
        grades = np.asarray(_grades(self.lm.model, tokens, mask, places))
        return [grade[:size] for grade, (_, size) in zip(grades, rows, strict=False)]


def check_pairs(descriptions: Sequence[str], texts: Sequence[Texts]) -> None:
    """Raises SelfxError unless every description has its texts."""
    if len(descriptions) != len(texts):
        raise SelfxError(
            f"{len(descriptions)} descriptions and texts of {len(texts)}",
            expected="texts for every description",
        )


@jax.jit
def _grades(model: Decoder, tokens: jax.Array, mask: jax.Array, places: jax.Array) -> jax.Array:
    """float32 `[b, p]`: the expected grade at each place."""
    logits = forward(model, tokens, mask=mask, logits_at=places).logits
    belief = jax.nn.softmax(logits[..., :GRADES].astype(jnp.float32))
    return belief @ jnp.arange(GRADES, dtype=jnp.float32)
