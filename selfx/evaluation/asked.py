"""Asking models the questions of an evaluation, each set of answers kept until it has ended."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfx.evaluation.controls import get_control
from selfx.evaluation.kept import Keep
from selfx.evaluation.scoring import Answered
from selfx.explainer.answer import Explainer, answer, own_vectors, untrained
from selfx.explainer.reader import Reader
from selfx.explainer.run import Run
from selfx.explainer.selfie import selfie
from selfx.progress import Report
from selfx.tasks.example import Example

if TYPE_CHECKING:
    from selfx.evaluation.run import Evaluation

UNTRAINED = "untrained"


class Asked:
    """The answers of one evaluation."""

    def __init__(
        self,
        explainer: Explainer,
        test: Sequence[Example],
        settings: Evaluation,
        keep: Keep,
        report: Report,
    ):
        self.explainer, self.test, self.settings = explainer, test, settings
        self.keep, self.report = keep, report

    @property
    def plain(self) -> Explainer:
        """The model that the explainer was made from, asked the same way."""
        explainer = self.explainer
        plain = untrained(explainer.base, explainer.training, explainer.origin)
        projection = None if explainer.reader is None else explainer.reader.projection
        if projection is not None:  # without it no vector of another width could be read
            plain = dataclasses.replace(plain, reader=Reader(projection=projection))
        return plain

    @property
    def vectors(self) -> np.ndarray:
        """float32 `[n, m, d]`: what the questions hold."""
        return own_vectors(self.test, self.explainer.origin.width)

    @property
    def single(self) -> np.ndarray:
        """float32 `[n, d]`: of several vectors the last, for those who read but one."""
        none = np.zeros(self.explainer.origin.width, np.float32)
        return np.stack([none if e.vector is None else e.vector for e in self.test])

    def under(self, control: str) -> Answered:
        """The explainer's answers, its vectors replaced as the control says."""
        groups = [example.group for example in self.test]
        vectors = get_control(control)(self.vectors, seed=self.settings.seed, groups=groups)
        return Answered(self.explainer.name, control, self._ask(self.explainer, vectors, control))

    def untrained(self) -> Answered:
        """The answers of the model before training."""
        return Answered(UNTRAINED, "none", self._ask(self.plain, self.vectors, UNTRAINED))

    def selfie(self, vectors: np.ndarray, scale: float) -> list[str]:
        """What the model before training says of vectors at that length in SelfIE's prompt."""
        plain = self.plain

        def ask() -> list[str]:
            size = self.settings.batch_size
            return selfie(plain, vectors, scale, batch_size=size, report=self.report)

        return self.keep("selfie", self._key(plain, vectors, f"SelfIE at {scale!r}"), ask)

    def digest(self, train: Sequence[Example]) -> str:
        """Changes with the adapter and with what the examples ask, hold and have for an answer."""
        truth = [(e.answer, e.changed, e.cell) for e in (*train, *self.test)]
        return self._key(self.explainer, self.vectors, repr(truth))

    def _ask(self, explainer: Explainer, vectors: np.ndarray, label: str) -> list[str]:
        def ask() -> list[str]:
            return answer(
                explainer,
                self.test,
                vectors,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
                report=lambda done, total, note: self.report(done, total, f"{label} {note}"),
            )

        return self.keep(label, self._key(explainer, vectors), ask)

    def _key(self, explainer: Explainer, vectors: np.ndarray, *more: str) -> str:
        """A name that changes with anything that could change the answers."""
        parts = (
            explainer.base.hash,
            repr(explainer.training),
            repr(self.settings.max_new_tokens),
            *(f"{example.id} {example.question}" for example in self.test),
            *more,
        )
        whole = hashlib.sha256("\n".join(parts).encode())
        whole.update(np.ascontiguousarray(vectors).tobytes())
        whole.update(adapter_digest(explainer).encode())
        return whole.hexdigest()[:16]


def adapter_digest(explainer: Explainer) -> str:
    """sha256 of what the explainer was trained to; of nothing for an untrained model."""
    return Run(Path(explainer.name)).digest()
