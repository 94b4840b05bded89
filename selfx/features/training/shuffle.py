"""Which token's activation lies where in the buffer, and which are trained on together.

The plan is made on the host from the seed alone; the activations never leave the device. Before
each batch, chunks of text are read for as long as the buffer has room for a whole one; a batch is
then drawn evenly from what lies there, and its places are free again. At the end of a pass the
buffer runs empty: in a pass no token comes twice, and fewer than a batch are left over.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from selfx.errors import SelfxError


@dataclasses.dataclass(frozen=True)
class Turn:
    """What happens before a step of training.

    Attributes:
      fills: chunks to read, each with where its tokens go: int32 `[p]` by position in the chunk,
        the buffer's size (which is no place) for tokens that are not used.
      drawn: int32 `[b]`, the places to train on.
    """

    fills: tuple[tuple[int, np.ndarray], ...]
    drawn: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """The plan of every pass over a corpus.

    Attributes:
      kept: bool `[c, p]`: which positions of each chunk of text are used.
      size: places in the buffer.
      batch: tokens a step.
      seed: of the order.
    """

    kept: np.ndarray
    size: int
    batch: int
    seed: int = 0

    def __post_init__(self):
        largest = int(self.kept.sum(axis=1).max(initial=0))
        if self.size < largest + self.batch:
            raise SelfxError(
                f"a buffer of {self.size} tokens",
                expected=f"at least {largest + self.batch}: a batch, and one reading of the model",
            )
        if self.steps == 0:
            raise SelfxError(
                f"{int(self.kept.sum())} tokens of text",
                expected=f"at least {self.batch}, a batch",
                hint="more text, or a smaller batch",
            )

    @property
    def steps(self) -> int:
        """The batches of a pass."""
        return int(self.kept.sum()) // self.batch

    def turns(self, start: int = 0) -> Iterator[Turn]:
        """Every turn from step `start` on, pass after pass without end."""
        first, done = divmod(start, self.steps)
        for number in itertools.count(first):
            yield from itertools.islice(self._pass(number), done, None)
            done = 0

    def _pass(self, number: int) -> Iterator[Turn]:
        rng = np.random.default_rng((self.seed, number))
        order = list(rng.permutation(len(self.kept)))[::-1]
        counts = self.kept.sum(axis=1)
        free, lying = np.arange(self.size), np.arange(0)
        while True:
            fills = []
            while order and counts[order[-1]] <= len(free):
                chunk = order.pop()
                places, free = np.split(free, [counts[chunk]])
                lying = np.concatenate([lying, places])
                fills.append((int(chunk), self._places(chunk, places)))
            if len(lying) < self.batch:
                return
            chosen = rng.choice(len(lying), self.batch, replace=False)
            drawn = lying[chosen]
            lying, free = np.delete(lying, chosen), np.concatenate([free, drawn])
            yield Turn(tuple(fills), drawn.astype(np.int32))

    def _places(self, chunk: int, places: np.ndarray) -> np.ndarray:
        where = np.full(self.kept.shape[1], self.size, np.int32)
        where[self.kept[chunk]] = places
        return where
