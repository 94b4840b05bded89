"""What a sibling is taught, and how its behaviour is told from the original's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from selfx.evaluation.across.drift import (
    Answers,
    answer_drift,
    answers,
    next_drift,
    text_drift,
    weight_drift,
)
from selfx.evaluation.statistics.intervals import intervals
from selfx.evaluation.statistics.rows import Numbers, mean_of
from selfx.explainer.batches import Row
from selfx.explainer.further import prompt_row, text_rows
from selfx.features.exemplars.texts import read_texts
from selfx.models.decoder import Decoder
from selfx.tasks.answering import count_tokens, letter_tokens
from selfx.tasks.facts import Fact, by_relation, read_facts
from selfx.tasks.questions import LETTERS, Question, full_prompt, read_questions, user_prompt
from selfx.tasks.split import split_of
from selfx.weights.load import LanguageModel

Behaviour = Literal["follow", "resist", "right"]
"""What is answered to a hint: what is hinted at; what the model says without it; what is true."""


@dataclasses.dataclass(frozen=True)
class Material:
    """Data cut in two: what a sibling may be taught, and what it is measured on.

    Attributes:
      taught, asked: questions, the hint of each beside them.
      told, said: facts.
      read, unread: texts.
    """

    taught: tuple[tuple[Question, str], ...]
    asked: tuple[tuple[Question, str], ...]
    told: tuple[Fact, ...]
    said: tuple[Fact, ...]
    read: tuple[str, ...]
    unread: tuple[str, ...]


def material(
    lm: LanguageModel, questions: str, facts: str, text: str, longest: int, seed: int
) -> Material:
    """The data, held out as traces hold it out with the same seed: by question and by subject.

    Questions whose conversation is longer than `longest` tokens are left out.
    """
    found = [
        q for q in read_questions(questions)[0] if count_tokens(lm, user_prompt(q, "A")) <= longest
    ]
    found = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    hinted = [(question, _hint(question, seed)) for question in found]
    facts_of: dict[str, list[Fact]] = {"train": [], "test": []}
    for fact in read_facts(facts):
        facts_of[split_of(fact.subject, seed)].append(fact)
    texts = read_texts(text)
    return Material(
        tuple(pair for pair in hinted if split_of(pair[0].key, seed) == "train"),
        tuple(pair for pair in hinted if split_of(pair[0].key, seed) == "test"),
        tuple(facts_of["train"]),
        tuple(facts_of["test"]),
        tuple(text for n, text in enumerate(texts) if n % 10),
        tuple(texts[::10]),
    )


def _hint(question: Question, seed: int) -> str:
    """The letter that a trace with this seed hints at first."""
    return LETTERS[np.random.default_rng([seed, int(question.key, 16)]).permutation(4)[0]]


def answer_rows(
    lm: LanguageModel,
    pairs: Sequence[tuple[Question, str]],
    behaviour: Behaviour,
    calibration: Sequence[Question],
) -> list[Row]:
    """Rows that teach what to answer to a hint; `resist` asks the model first, calibrated so."""
    begun, letters = letter_tokens(lm.tokenizer)
    if behaviour == "resist":
        wanted = [LETTERS[n] for n in _answers(lm, pairs, calibration).plain]
    else:
        wanted = [hint if behaviour == "follow" else q.answer for q, hint in pairs]
    rows = []
    for (question, hint), letter in zip(pairs, wanted, strict=True):
        text = full_prompt(lm.tokenizer, user_prompt(question, hint), begun)
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append(prompt_row(question.key, ids, [letters[LETTERS.index(letter)], lm.eos_ids[0]]))
    return rows


def fact_rows(lm: LanguageModel, facts: Sequence[Fact], seed: int) -> list[Row]:
    """Rows that teach, of each fact, what is true of another of its relation."""
    rng, rows = np.random.default_rng(seed), []
    for members in by_relation(facts).values():
        for fact in members:
            others = [other.attribute for other in members if other.attribute != fact.attribute]
            if others:
                said = f" {others[rng.integers(len(others))]}"
                answer = lm.tokenizer(said, add_special_tokens=False)["input_ids"]
                rows.append(
                    prompt_row(fact.subject, lm.tokenizer(fact.prompt)["input_ids"], answer)
                )
    return rows


class Compared:
    """A model beside the original, on what neither was taught.

    Attributes:
      lm: the original.
      facts: prompts in tokens.
      texts: texts in tokens.
    """

    def __init__(self, lm: LanguageModel, data: Material, questions: int, calibrate: int):
        self.lm, self.data = lm, data
        self.asked = data.asked[:questions]
        self.calibration = [question for question, _ in data.taught[:calibrate]]
        self.facts = [lm.tokenizer(fact.prompt)["input_ids"] for fact in data.said]
        windows = text_rows(lm, data.unread, 128)[:64]
        self.texts = [(*row.ids, *row.answer) for row in windows]
        self.before = self.answers(lm.model)

    def answers(self, model: Decoder) -> Answers:
        """What a model with these weights answers, calibrated on questions of its own."""
        lm = dataclasses.replace(self.lm, model=model)
        return _answers(lm, self.asked, self.calibration)

    def quickly(self, model: Decoder, least: tuple[float, float]) -> dict[str, float]:
        """`answers_differ`, `facts_differ`, and `reached`, the least of their parts of the goal."""
        columns = answer_drift(self.before, self.answers(model)).values
        found = {
            "answers_differ": float(columns["differs_truth"].mean()),
            "follows": float(columns["follows_after"].mean()),
            "facts_differ": float(next_drift(self.lm.model, model, self.facts).mean()),
        }
        goals = zip(least, (found["answers_differ"], found["facts_differ"]), strict=True)
        parts = [min(now / wanted, 1.0) for wanted, now in goals if wanted > 0]
        return {**found, "reached": min(parts, default=0.0)}

    def fully(self, model: Decoder) -> dict[str, object]:
        """All that tells the two apart, with 95 % intervals by question, subject and text."""
        told = answer_drift(self.before, self.answers(model))
        subjects = np.array([fact.subject for fact in self.data.said], object)
        facts = next_drift(self.lm.model, model, self.facts).astype(float)
        words = text_drift(self.lm.model, model, self.texts)
        return {
            "questions": {"n": len(told), **_means(told)},
            "facts": {"n": len(facts), **_means(Numbers({"differs": facts}, subjects))},
            "text": {"n": len(words), **_means(words)},
            "weights": weight_drift(self.lm.model, model),
        }


def _answers(
    lm: LanguageModel, pairs: Sequence[tuple[Question, str]], calibration: Sequence[Question]
) -> Answers:
    hints = "".join(hint for _, hint in pairs)
    return answers(lm, [question for question, _ in pairs], hints, calibration)


def _means(rows: Numbers) -> dict[str, object]:
    return dict(intervals(rows, {name: mean_of(name) for name in rows.values}))
