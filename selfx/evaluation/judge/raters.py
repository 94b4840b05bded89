"""Judges: callables from pairs of descriptions to ratings, each with a name and a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from selfx.evaluation.judge.rating import RATINGS, Pair, question, rating
from selfx.features.descriptions.chat import Chat, Cost, Endpoint, user
from selfx.features.scores.similarity import Embedder, similarity
from selfx.progress import Report, silent


class Judge(Protocol):
    """Rates descriptions."""

    @property
    def name(self) -> str:
        """What it is called beside others."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """For the record: it changes with all that a rating depends on."""
        ...

    def cost(self, pairs: Sequence[Pair]) -> Cost | None:
        """What rating these will take; None where nobody has to be asked."""
        ...

    def __call__(self, pairs: Sequence[Pair], report: Report = silent) -> list[float | None]:
        """A rating from 1 to 5 of each pair; None where what it said cannot be read.

        Who has a cost reports progress; of others a few pairs at a time are asked.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ChatJudge:
    """A chat model whose reply is read.

    Attributes:
      chat: who is asked.
      name: what it is called.
      about: for the record.
    """

    chat: Chat
    name: str
    about: dict[str, Any]

    def cost(self, pairs: Sequence[Pair]) -> Cost | None:
        """What asking will take; None of a model that runs here."""
        if not isinstance(self.chat, Endpoint):
            return None
        return self.chat.cost([user(question(pair)) for pair in pairs])

    def __call__(self, pairs: Sequence[Pair], report: Report = silent) -> list[float | None]:
        """The rating that each reply names."""
        chat = self.chat
        if isinstance(chat, Endpoint):
            chat = dataclasses.replace(chat, report=report)
        return [rating(reply) for reply in chat([user(question(pair)) for pair in pairs])]


@dataclasses.dataclass(frozen=True)
class SimilarityJudge:
    """The cosine of two wordings, from 0 (and below) as a rating of 1 to 1 as one of 5.

    Attributes:
      embedder: puts wordings where alike ones are near.
      about: for the record.
      name: what it is called.
    """

    embedder: Embedder
    about: dict[str, Any]
    name: str = "similarity"

    def cost(self, pairs: Sequence[Pair]) -> None:
        """Nothing."""

    def __call__(self, pairs: Sequence[Pair], report: Report = silent) -> list[float | None]:
        """A rating that need not be whole."""
        texts, truths = [one for one, _ in pairs], [[other] for _, other in pairs]
        low, high = RATINGS[0], RATINGS[-1]
        cosines = similarity(self.embedder, texts, truths).clip(0, 1)
        return [low + (high - low) * float(cosine) for cosine in cosines]
