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

from selfx.errors import SelfxError
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
      vectors: float32 `[b, m, d]`, as the target had them.
      slots: int32 `[b, m]`, where a row's vectors go, -1 for nowhere.
      layers: int32 `[b, m]`, the target's layer that each was taken after, -1 if not known.
      likely: int32 `[b, a, c]`, the tokens that could have come, the answer's among them; None
        where only the answer's is known.
      shares: float32 `[b, a, c]`, how likely each was; they sum to 1.
    """

    tokens: np.ndarray
    mask: np.ndarray
    ask: np.ndarray
    answers: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    slots: np.ndarray
    layers: np.ndarray
    likely: np.ndarray | None = None
    shares: np.ndarray | None = None

    @property
    def n_tokens(self) -> int:
        """Real tokens in it."""
        return int(self.mask.sum())


@dataclasses.dataclass(frozen=True)
class Row:
    """An example in one wording, in tokens.

    Attributes:
      id: the example's.
      ids, answer: the question's tokens and the answer's.
      slots: where in the question its vectors stand.
      vectors: float32 `[m, d]`, or None.
      layers: the `m` layers that they were taken after.
      likely: at each place of the answer the tokens that could have come, with their shares; empty
        where only the answer's own could.
    """

    id: str
    ids: tuple[int, ...]
    answer: tuple[int, ...]
    slots: tuple[int, ...]
    vectors: np.ndarray | None
    layers: tuple[int, ...]
    likely: tuple[tuple[tuple[int, float], ...], ...] = ()

    def __len__(self) -> int:
        return len(self.ids) + len(self.answer)


def wordings(example: Example, prompter: Prompter) -> list[Row]:
    """The example in each of its wordings."""
    return [row(example, prompter, w) for w in range(len(prompter.wordings(example)))]


def row(example: Example, prompter: Prompter, wording: int = 0) -> Row:
    """The example in one wording.

    Raises:
      SelfxError: its placeholders, vectors and layers do not match.
    """
    prompt, answer = prompter.prompt(example, wording), prompter.answer(example)
    layers = example.layers or (-1,) * len(prompt.slots)
    if len(layers) != len(prompt.slots):
        raise SelfxError(
            f"{len(layers)} layers for {len(prompt.slots)} vectors in example {example.id}",
            expected="one for each",
        )
    could = [(prompter.said(example, text), share) for text, share in example.likely]
    likely = next_tokens(answer, could) if could else ()
    return Row(example.id, prompt.ids, answer, prompt.slots, example.vectors, layers, likely)


def next_tokens(
    answer: Sequence[int], could: Sequence[tuple[Sequence[int], float]]
) -> tuple[tuple[tuple[int, float], ...], ...]:
    """At each place of an answer, the tokens that go on from what stands before it, with shares.

    Args:
      answer: the true answer's tokens.
      could: the answers that could have been true, each with its share, the true one among them.
    """
    places = []
    for place, own in enumerate(answer):
        shares: dict[int, float] = {own: 0.0}
        for tokens, share in could:
            if tuple(tokens[:place]) == tuple(answer[:place]) and len(tokens) > place:
                shares[tokens[place]] = shares.get(tokens[place], 0.0) + share
        total = sum(shares.values())
        if not total:  # the true answer's own share rounds to nothing
            shares, total = {own: 1.0}, 1.0
        places.append(tuple((token, share / total) for token, share in shares.items()))
    return tuple(places)


def collate(rows: Sequence[Row], size: int, width: int, vectors: int, likely: int = 0) -> Batch:
    """The rows as arrays; a short batch is filled with rows of no weight.

    Args:
      rows: at most `size` of them.
      size: rows of the batch.
      width: of the vectors.
      vectors: room for how many in a row.
      likely: for how many tokens at a place; 0 leaves them out.
    """
    length = bucket(max(len(row) for row in rows))
    room = bucket(max(len(row.answer) for row in rows))
    batch = Batch(
        tokens=np.zeros((size, length), np.int32),
        mask=np.zeros((size, length), bool),
        ask=np.full((size, room), -1, np.int32),
        answers=np.zeros((size, room), np.int32),
        weights=np.zeros((size, room), np.float32),
        vectors=np.zeros((size, vectors, width), np.float32),
        slots=np.full((size, vectors), -1, np.int32),
        layers=np.full((size, vectors), -1, np.int32),
    )
    for i, row in enumerate(rows):
        question, answer, held = len(row.ids), len(row.answer), len(row.slots)
        batch.tokens[i, : question + answer] = (*row.ids, *row.answer)
        batch.mask[i, : question + answer] = True
        batch.ask[i, :answer] = np.arange(question - 1, question + answer - 1)
        batch.answers[i, :answer] = row.answer
        batch.weights[i, :answer] = 1
        if row.vectors is not None:
            batch.slots[i, :held], batch.layers[i, :held] = row.slots, row.layers
            batch.vectors[i, :held] = row.vectors
    if not likely:
        return batch
    tokens, shares = _likely(rows, (size, room, likely))
    return dataclasses.replace(batch, likely=tokens, shares=shares)


def _likely(rows: Sequence[Row], shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What could have come at each place of each answer, and its shares: its own where no other."""
    tokens, shares = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for i, row in enumerate(rows):
        for place, could in enumerate(row.likely or [((token, 1.0),) for token in row.answer]):
            for n, (token, share) in enumerate(could):
                tokens[i, place, n], shares[i, place, n] = token, share
    return tokens, shares


class Plan:
    """The rows of every step of a run.

    Attributes:
      rows: every example's wordings.
      times: how often an epoch sees each example; a fraction is a chance.
      longest: tokens of the longest row.
      likely: the most tokens that could come at one place, 0 where only the answer's own.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        prompter: Prompter,
        *,
        width: int,
        batch_size: int,
        seed: int,
        times: Sequence[float] | None = None,
    ):
        self.width, self.batch_size, self.seed = width, batch_size, seed
        self.rows = [wordings(example, prompter) for example in examples]
        self.times = np.ones(len(examples)) if times is None else np.asarray(times, float)
        self.longest = max(len(wording) for row in self.rows for wording in row)
        self.vectors = max(1, *(len(row[0].slots) for row in self.rows))
        self.likely = max(len(at) for row in self.rows for at in (*row[0].likely, ()))
        self.steps_per_epoch = -(-round(float(self.times.sum())) // batch_size)
        self._epoch = -1
        self._order: list[list[Row]] = []

    def rows_of(self, step: int) -> list[Row]:
        """The rows of step `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._order = epoch, self._epoch_batches(epoch)
        return self._order[index]

    def batch(self, step: int) -> Batch:
        """The same as arrays."""
        return self.collate(self.rows_of(step))

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Some rows as arrays of this plan's sizes."""
        return collate(rows, self.batch_size, self.width, self.vectors, self.likely)

    def _epoch_batches(self, epoch: int) -> list[list[Row]]:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self._drawn(rng))
        rows = [self.rows[i][rng.integers(len(self.rows[i]))] for i in order]
        span = WINDOW * self.batch_size
        batches = []
        for start in range(0, len(rows), span):
            window = sorted(rows[start : start + span], key=len)
            batches += [
                window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        """The examples of an epoch, always as many: each its whole times, some once more."""
        whole = np.floor(self.times).astype(int)
        more = round(float(self.times.sum())) - int(whole.sum())
        chances = self.times - whole
        drawn = np.repeat(np.arange(len(self.rows)), whole)
        if not more:
            return drawn
        # Even steps through the chances laid end to end in any order: to draw one after the other
        # without putting back would favour the rare.
        order = rng.permutation(len(self.rows))
        ends = np.cumsum(chances[order])
        at = ends[-1] * (rng.random() + np.arange(more)) / more
        return np.concatenate([drawn, order[np.searchsorted(ends, at, side="right")]])
