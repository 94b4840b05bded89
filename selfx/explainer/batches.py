"""Which examples a step sees: a pure function of (seed, step), so that the position is the step.

Each epoch is a fresh permutation. Examples of like length share a batch, because padding costs as
much as text: within a window of batches rows are sorted by length, then the batches are shuffled.
Rows are padded to a few widths, each compiled once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import struct

from selfx.explainer.prompts import Prompter
from selfx.interventions.batching import bucket
from selfx.tasks.example import Example

WINDOW = 16
"""How many batches are sorted together: more pads less, fewer mixes better."""


@struct.dataclass
class Batch:
    """One step's rows.

    Attributes:
      tokens: int32 `[b, t]`, question and answer, padded on the right.
      mask: bool `[b, t]`.
      ask: int32 `[b, a]`, the positions whose logits must say the answer's tokens.
      answers: int32 `[b, a]`, those tokens.
      weights: float32 `[b, a]`, 1 at real answer tokens, else 0.
      vectors: float32 `[b, d]`.
      slots: int32 `[b]`, where a row's vector goes, -1 for nowhere.
      layers: int32 `[b]`, the layer that it was taken after, -1 where that is not known.
    """

    tokens: np.ndarray
    mask: np.ndarray
    ask: np.ndarray
    answers: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    slots: np.ndarray
    layers: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Real tokens in it."""
        return int(self.mask.sum())


@dataclasses.dataclass(frozen=True)
class Row:
    """An example in one wording, in tokens."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]
    slot: int
    vector: np.ndarray | None
    layer: int = -1

    def __len__(self) -> int:
        return len(self.ids) + len(self.answer)


class Plan:
    """The rows of every step of a run."""

    def __init__(
        self,
        examples: Sequence[Example],
        prompter: Prompter,
        *,
        d_model: int,
        batch_size: int,
        seed: int,
    ):
        self.d_model, self.batch_size, self.seed = d_model, batch_size, seed
        self.rows = [
            [_row(example, prompter, w) for w in range(len(prompter.wordings(example)))]
            for example in examples
        ]
        self.steps_per_epoch = -(-len(examples) // batch_size)
        longest = max(len(wording.answer) for row in self.rows for wording in row)
        self.answer_width = -(-longest // 8) * 8
        self.longest = max(len(wording) for row in self.rows for wording in row)
        self._epoch = -1
        self._order: list[list[Row]] = []

    def batch(self, step: int) -> Batch:
        """The rows of step `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._order = epoch, self._epoch_batches(epoch)
        return self.collate(self._order[index])

    def _epoch_batches(self, epoch: int) -> list[list[Row]]:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.rows))
        rows = [self.rows[i][rng.integers(len(self.rows[i]))] for i in order]
        span = WINDOW * self.batch_size
        batches = []
        for start in range(0, len(rows), span):
            window = sorted(rows[start : start + span], key=len)
            batches += [
                window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def collate(self, rows: Sequence[Row]) -> Batch:
        """The rows as arrays; a short batch is filled with rows of no weight."""
        width = bucket(max(len(row) for row in rows))
        n, a = self.batch_size, self.answer_width
        batch = Batch(
            tokens=np.zeros((n, width), np.int32),
            mask=np.zeros((n, width), bool),
            ask=np.full((n, a), -1, np.int32),
            answers=np.zeros((n, a), np.int32),
            weights=np.zeros((n, a), np.float32),
            vectors=np.zeros((n, self.d_model), np.float32),
            slots=np.full(n, -1, np.int32),
            layers=np.full(n, -1, np.int32),
        )
        for i, row in enumerate(rows):
            question, answer = len(row.ids), len(row.answer)
            batch.tokens[i, : question + answer] = (*row.ids, *row.answer)
            batch.mask[i, : question + answer] = True
            batch.ask[i, :answer] = np.arange(question - 1, question + answer - 1)
            batch.answers[i, :answer] = row.answer
            batch.weights[i, :answer] = 1
            batch.slots[i], batch.layers[i] = row.slot, row.layer
            if row.vector is not None:
                batch.vectors[i] = row.vector
        return batch


def _row(example: Example, prompter: Prompter, wording: int) -> Row:
    prompt = prompter.prompt(example, wording)
    answer = prompter.answer(example)
    return Row(prompt.ids, answer, prompt.slot, example.vector, example.layer)
