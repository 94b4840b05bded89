"""Asking models the questions of an evaluation, each set of answers kept until it has ended."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.baselines.few_shot import SHOTS, first_line, with_shots
from selfx.evaluation.controls import OTHER_MODEL, TEXT_ONLY, changed
from selfx.evaluation.kept import Keep
from selfx.explainer.answer import Explainer, answer, own_vectors, untrained
from selfx.explainer.likelihood import at_temperatures
from selfx.explainer.run import Run
from selfx.explainer.selfie import selfie
from selfx.progress import Report
from selfx.tasks.example import Example

if TYPE_CHECKING:
    from selfx.evaluation.run import Evaluation

UNTRAINED = "untrained"
FEW_SHOT = "few-shot"
AT_ONCE = 8
"""Answers weighed at once, at most: each of their tokens has a score for the whole vocabulary."""


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
        plain = untrained(explainer.base, explainer.training.asking, explainer.origin)
        reader = None if explainer.reader is None else explainer.reader.untrained
        return dataclasses.replace(plain, reader=reader)

    @property
    def vectors(self) -> np.ndarray:
        """float32 `[n, m, d]`: what the questions hold."""
        return own_vectors(self.test, self.explainer.origin.width)

    @property
    def single(self) -> np.ndarray:
        """float32 `[n, d]`: of several vectors the last, for those who read but one."""
        none = np.zeros(self.explainer.origin.width, np.float32)
        return np.stack([none if e.vector is None else e.vector for e in self.test])

    def under(self, control: str) -> Answered | None:
        """The explainer's answers, its examples changed as the control says; None where it changes
        none of them."""
        examples = self.test
        if control != "none":
            fewer = changed(control, self.test, seed=self.settings.seed)
            if fewer is None or self._told_the_same(fewer):
                return None
            examples = fewer
        return Answered(self.explainer.name, control, self._ask(self.explainer, examples, control))

    def _told_the_same(self, examples: Sequence[Example]) -> bool:
        """Whether other examples are the test's to this explainer, which may never be told what
        they lack."""
        told = self.explainer.prompter.told
        return all(
            told(new).questions == told(own).questions and new.vectors is own.vectors
            for new, own in zip(examples, self.test, strict=True)
        )

    def given(self, examples: Sequence[Example]) -> Answered:
        """The explainer's answers about the vectors of another model."""
        said = self._ask(self.explainer, examples, OTHER_MODEL)
        return Answered(self.explainer.name, OTHER_MODEL, said)

    def text_only(self, blind: Explainer) -> Answered:
        """The answers of an explainer that was trained without vectors."""
        return Answered(self.explainer.name, TEXT_ONLY, self._ask(blind, self.test, TEXT_ONLY))

    def untrained(self) -> Answered:
        """The answers of the model before training."""
        return Answered(UNTRAINED, "none", self._ask(self.plain, self.test, UNTRAINED))

    def few_shot(self, train: Sequence[Example]) -> Answered:
        """The answers of the model before training, after as many true ones as it has room for."""
        plain, room = self.plain, self.explainer.base.config.max_positions
        train, test = ([*map(plain.prompter.told, part)] for part in (train, self.test))
        for shots in range(SHOTS, -1, -1):
            asked = with_shots(train, test, shots, seed=self.settings.seed)
            longest = max(len(plain.prompter.prompt(example).ids) for example in asked)
            if longest + self.settings.max_new_tokens <= room:
                break
        said = [first_line(answer) for answer in self._ask(plain, asked, FEW_SHOT)]
        return Answered(FEW_SHOT, "none", said, note={"shots": shots})

    def marked(self, examples: Sequence[Example], scale: float) -> list[str]:
        """What the model before training answers, vectors as markers so many embeddings long."""
        plain = self.plain
        training = dataclasses.replace(
            plain.training, injection="marker", strength=scale, blind=False
        )
        return self._ask(dataclasses.replace(plain, training=training), examples, "selfie")

    def selfie(self, vectors: np.ndarray, scale: float) -> list[str]:
        """What the model before training says of vectors at that length in SelfIE's prompt."""
        plain = self.plain

        def ask() -> list[str]:
            size = self.settings.batch_size
            return selfie(plain, vectors, scale, batch_size=size, report=self.report)

        return self.keep("selfie", self._key(plain, vectors, f"SelfIE at {scale!r}"), ask)

    def said(self, examples: Sequence[Example], label: str) -> list[str]:
        """The explainer's answers to other questions."""
        return self._ask(self.explainer, examples, label)

    def weighed(
        self,
        examples: Sequence[Example],
        texts: Sequence[str],
        temperatures: Sequence[float],
        label: str,
    ) -> np.ndarray:
        """float64 `[n, c]`: log-probabilities of answers at each temperature."""
        vectors = own_vectors(examples, self.explainer.origin.width)

        def weigh() -> list[list[float]]:
            found, _ = at_temperatures(
                self.explainer,
                examples,
                texts,
                vectors,
                temperatures,
                batch_size=min(AT_ONCE, self.settings.batch_size),
                report=self.report,
            )
            return found.tolist()

        more = (repr(list(texts)), repr(list(temperatures)))
        key = self._key(self.explainer, vectors, *more, examples=examples)
        return np.array(self.keep(f"weighed {label}", key, weigh))

    def digest(self, train: Sequence[Example]) -> str:
        """Changes with the adapter and with what the examples ask, hold and have for an answer."""
        truth = [(e.answer, e.changed, e.cell) for e in (*train, *self.test)]
        return self._key(self.explainer, self.vectors, repr(truth))

    def _ask(self, explainer: Explainer, examples: Sequence[Example], label: str) -> list[str]:
        vectors = own_vectors(examples, explainer.origin.width)
        if explainer.training.blind:  # whatever it is given, it has answered already
            vectors = np.zeros_like(vectors)

        def ask() -> list[str]:
            return answer(
                explainer,
                examples,
                vectors,
                max_new_tokens=self.settings.max_new_tokens,
                beams=self._beams(explainer),
                batch_size=self.settings.batch_size,
                report=lambda done, total, note: self.report(done, total, f"{label} {note}"),
            )

        return self.keep(label, self._key(explainer, vectors, examples=examples), ask)

    def _beams(self, explainer: Explainer) -> int:
        """How many answers it writes at once: who learned no shares is asked greedily."""
        return self.settings.beams or explainer.training.beams

    def _key(
        self,
        explainer: Explainer,
        vectors: np.ndarray,
        *more: str,
        examples: Sequence[Example] | None = None,
    ) -> str:
        """A name that changes with anything that could change the answers."""
        examples = self.test if examples is None else examples
        parts = (
            explainer.base.hash,
            repr(explainer.training),
            f"{self.settings.max_new_tokens} {self._beams(explainer)}",
            *(f"{e.id} {e.question} {e.openings[:1]} {e.layers}" for e in examples),
            *more,
        )
        whole = hashlib.sha256("\n".join(parts).encode())
        whole.update(np.ascontiguousarray(vectors).tobytes())
        whole.update(adapter_digest(explainer).encode())
        for leaf in jax.tree.leaves(explainer.reader):  # which an untrained model may be given
            whole.update(np.ascontiguousarray(leaf).tobytes())
        return whole.hexdigest()[:16]


def adapter_digest(explainer: Explainer) -> str:
    """sha256 of what the explainer was trained to; of nothing for an untrained model."""
    return Run(Path(explainer.name)).digest()
