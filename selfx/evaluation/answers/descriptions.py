"""Descriptions of features, scored on texts with the feature's measured activations.

Every description is scored once for each feature that it is given of, however many explainers say
it. Predictions are made once as well, and simulation, detection and fuzzing all read them.

Undefined scores are those of knowing nothing: a correlation that is not defined is 0, a ranking of
nothing 0.5. So are all scores of a description that says nothing that can be checked; its
similarity is 0, and it is not the true description, even where that one says as little.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import DESCRIPTIONS, EXAMPLES
from selfx.evaluation.answers.parsing import normalise
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.answers.shown import shown
from selfx.evaluation.answers.simulated import Judges, load_judges
from selfx.evaluation.kept import Keep, nowhere
from selfx.evaluation.statistics.rows import Numbers, Rows
from selfx.features.descriptions.statements import parse
from selfx.features.exemplars.excerpts import Evidence
from selfx.features.scores.score import score_detection, score_fuzzing, score_simulation
from selfx.features.scores.similarity import similarity
from selfx.features.scores.simulate import Predictions, Texts
from selfx.interventions.batching import chunks
from selfx.progress import Report, silent
from selfx.tasks.evidence import load_evidence
from selfx.tasks.example import Example

if TYPE_CHECKING:
    from selfx.evaluation.run import Evaluation

NOTHING = {
    "simulation": 0.0,
    "simulation_paper": 0.0,
    "calibrated": 0.0,
    "detection": 0.5,
    "fuzzing": 0.5,
    "similarity": 0.0,
    "exact_match": 0.0,
    "parsed": 0.0,
}
"""The scores of saying nothing."""

BLOCK = 32
"""Features scored between two looks at the disk."""

Said = tuple[Example, list[str]]
"""A feature, and the different descriptions given of it."""


@dataclasses.dataclass(frozen=True)
class Descriptions:
    """Scores descriptions of some features.

    Attributes:
      evidence: each feature's texts, by its example's id.
      judges: who simulates, and who compares wordings.
      seed: of the tokens that fuzzing marks wrongly.
      keep: where scores are kept.
      report: told of progress.
      known: `{(id, description): scores}`, filled as descriptions come.
    """

    evidence: Mapping[str, Evidence]
    judges: Judges
    seed: int = 0
    keep: Keep = nowhere
    report: Report = silent
    known: dict[tuple[str, str], dict[str, float]] = dataclasses.field(default_factory=dict)

    kind = DESCRIPTIONS

    def rate(self, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Rows]:
        """Returns the scores of each run."""
        return [*self._numbers(examples, answered)]

    def elsewhere(self, data: Path, split: str, examples: Sequence[Example]) -> Descriptions:
        """Returns the same judges over the texts of other examples."""
        return dataclasses.replace(self, evidence=texts_of(data, split, examples), known={})

    def columns(
        self, examples: Sequence[Example], answered: Sequence[Answered]
    ) -> Iterator[dict[str, Any]]:
        """Yields the scores of each description."""
        for numbers in self._numbers(examples, answered):
            for row in range(len(numbers)):
                scores = {name: float(column[row]) for name, column in numbers.values.items()}
                exact, parsed = scores.pop("exact_match"), scores.pop("parsed")
                yield {"exact": bool(exact), "parsed": bool(parsed), **scores}

    def record(self) -> dict[str, Any]:
        """Returns who judges, and a digest of the texts that they judge by."""
        return {"scoring": {**self.judges.about, "texts": self._digest(self.evidence)}}

    def attached(self, examples: Sequence[Example], run: Answered) -> dict[str, Any]:
        """Returns the texts of a few features, spread over the explainer's simulation score."""
        (numbers,) = self._numbers(examples, [run])
        evidence = [self.evidence[example.id] for example in examples]
        return {EXAMPLES: shown(examples, evidence, numbers.values["simulation"])}

    def _numbers(self, examples: Sequence[Example], answered: Sequence[Answered]) -> list[Numbers]:
        lists = [(run.answers, *run.others) for run in answered]
        for answers in (texts for run in lists for texts in run):
            if len(answers) != len(examples):
                raise SelfxError(
                    f"{len(answers)} answers to {len(examples)} examples",
                    expected="one answer for each example, in the same order",
                )
        self._learn(examples, [texts for run in lists for texts in run])
        table = [[self._column(examples, texts) for texts in run] for run in lists]
        return [functools.reduce(Numbers.best, columns) for columns in table]

    def _column(self, examples: Sequence[Example], answers: Sequence[str]) -> Numbers:
        rows = [self.known[e.id, text] for e, text in zip(examples, answers, strict=True)]
        values = {name: np.array([row[name] for row in rows]) for name in self.kind.measures}
        return Numbers(values, np.array([example.group for example in examples], dtype=object))

    def _learn(self, examples: Sequence[Example], lists: Sequence[Sequence[str]]) -> None:
        """Scores what has not been said of a feature before."""
        said: list[Said] = []
        for example, *texts in zip(examples, *lists, strict=True):
            new = [text for text in dict.fromkeys(texts) if (example.id, text) not in self.known]
            said += [(example, new)] if new else []
        done = 0
        for block in chunks(said, BLOCK):
            make = functools.partial(self._scored, block)
            rows = iter(self.keep("scored", self._key(block), make))
            self.known.update({(e.id, text): next(rows) for e, texts in block for text in texts})
            done += len(block)
            self.report(done, len(said), "features' descriptions scored")

    def _scored(self, block: Sequence[Said]) -> list[dict[str, float]]:
        pairs = [(example, text) for example, texts in block for text in texts]
        checked = [parse(text).clauses != () for _, text in pairs]
        said = [pair for pair, usable in zip(pairs, checked, strict=True) if usable]
        texts, evidence = [text for _, text in said], [self.evidence[e.id] for e, _ in said]
        predicted = self.judges.simulator(texts, [each.excerpts for each in evidence])
        alike = similarity(self.judges.embedder, texts, [[e.answer] for e, _ in said])
        rows = iter(
            {
                **_by_activations(text, each, levels, self.seed),
                "similarity": float(cosine),
                "exact_match": float(normalise(text) == normalise(example.answer)),
                "parsed": 1.0,
            }
            for (example, text), each, levels, cosine in zip(
                said, evidence, predicted, alike, strict=True
            )
        )
        return [next(rows) if usable else dict(NOTHING) for usable in checked]

    def _key(self, block: Sequence[Said]) -> str:
        whole = hashlib.sha256(repr((self.judges.about, self.seed)).encode())
        whole.update(self._digest([e.id for e, _ in block]).encode())
        for example, texts in block:
            whole.update(repr((example.answer, texts)).encode("utf-8", "replace"))
        return whole.hexdigest()[:16]

    def _digest(self, ids: Iterable[str]) -> str:
        whole = hashlib.sha256()
        for each in ids:
            for text in self.evidence[each].excerpts:
                told = (each, text.pieces, text.ids, text.kind, text.skip)
                whole.update(repr(told).encode("utf-8", "replace"))
                whole.update(text.activations.tobytes())
        return whole.hexdigest()[:16]


def load_descriptions(
    data: Path,
    train: Sequence[Example],
    test: Sequence[Example],
    settings: Evaluation,
    keep: Keep,
    report: Report,
) -> Descriptions:
    """Returns what scores the descriptions of a trace's test features."""
    evidence = texts_of(data, "test", test)
    answers = [example.answer for example in train]
    judges = load_judges(settings.simulator, answers, evidence.values())
    return Descriptions(evidence, judges, settings.seed, keep, report)


def texts_of(data: Path, split: str, examples: Sequence[Example]) -> dict[str, Evidence]:
    """Returns the texts to score each example's descriptions on, by its id."""
    ids = [example.id for example in examples]
    return dict(zip(ids, load_evidence(data, split, ids), strict=True))


def _by_activations(
    text: str, evidence: Evidence, levels: Sequence[np.ndarray], seed: int
) -> dict[str, float]:
    """Returns the scores that compare predicted with measured activations."""
    known = {id(e): level for e, level in zip(evidence.excerpts, levels, strict=True)}

    def recall(descriptions: Sequence[str], texts: Sequence[Texts]) -> Predictions:
        return [[known[id(excerpt)] for excerpt in some] for some in texts]

    (simulation,) = score_simulation([text], [evidence], recall)
    (detection,) = score_detection([text], [evidence], recall)
    (fuzzing,) = score_fuzzing([text], [evidence], recall, seed=seed)
    return {
        "simulation": _or(simulation.correlation, NOTHING["simulation"]),
        "simulation_paper": simulation.paper,
        "calibrated": _or(simulation.calibrated, NOTHING["calibrated"]),
        "detection": _or(detection, NOTHING["detection"]),
        "fuzzing": _or(fuzzing, NOTHING["fuzzing"]),
    }


def _or(value: float, undefined: float) -> float:
    return value if math.isfinite(value) else undefined
