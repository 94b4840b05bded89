"""Descriptions of features in plain English, and the describer that needs no other model.

A describer is any callable from `Evidence` to a `Description`. The built-in one states what it has
measured: of the rules that the exemplars suggest it takes the few that together predict the
activation best, over texts where the feature is on *and* texts where it is not. It is deterministic
and says nothing of meaning. The measure is what a simulator's score is made of (Pearson's
correlation over tokens), so a description is as good as its rules, and its own `correlation` says
how good that is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from selfx.features.descriptions.candidates import Measured, followers, mentions, simple_rules
from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.statements import LEVELS, NEVER, Clause, Statement, promotes
from selfx.features.descriptions.words import joined, reading
from selfx.features.exemplars.excerpts import Evidence, once_each

ON = 0.1
"""The share of the feature's highest activation from which a token counts as on."""

MOST_CLAUSES = 4
_GAIN = 0.02
_COST = {"token": 0.0, "class": 0.0, "word": 0.0, "everything": 0.01}
_COST_ELSE, _COST_AFTER = 0.01, 0.02
_REFINED = 4


@dataclasses.dataclass(frozen=True)
class Count:
    """How a clause fares on the texts it was measured on.

    Attributes:
      phrase: the clause's rule.
      holds: at how many tokens it holds.
      on: at how many of these the feature is on.
      on_elsewhere: at how many other tokens the feature is on.
      elsewhere: how many other tokens there are.
      mean: the mean activation where it holds, from 0 to 10.
    """

    phrase: str
    holds: int
    on: int
    on_elsewhere: int
    elsewhere: int
    mean: float

    @property
    def text(self) -> str:
        """The counts in words."""
        return (
            f"{self.phrase}: on at {self.on} of {self.holds} (mean level {self.mean:.1f}), "
            f"elsewhere at {self.on_elsewhere} of {self.elsewhere}"
        )


@dataclasses.dataclass(frozen=True)
class Description:
    """What is said of a feature.

    Attributes:
      text: in plain English.
      by: who says it: `built-in`, a model's name, or a source such as `neuronpedia`.
      counts: the measurements behind it, where there are any.
      correlation: of the statement with the activation on the texts it was made from, or None.
      score: what its source says it is worth, or None.
    """

    text: str
    by: str
    counts: tuple[Count, ...] = ()
    correlation: float | None = None
    score: float | None = None


class Describer(Protocol):
    """Puts a feature in words."""

    def __call__(self, evidence: Evidence) -> Description:
        """The description of one feature."""
        ...


def describe(evidence: Evidence) -> Description:
    """What the exemplars show, measured: where the feature is on, and which tokens it promotes."""
    texts = _measured(evidence)
    if not any((text.share > 0).any() for text in texts):
        return Description(f"{NEVER}. {promotes(evidence.promoted)}".rstrip(), "built-in")
    table = _Table(texts)
    clauses = _choose(table, texts)
    statement = Statement(tuple(clauses), evidence.promoted)
    correlation = table.correlation(table.levels(clauses)) if clauses else None
    counts = tuple(table.count(clause.rule) for clause in clauses)
    return Description(statement.text, "built-in", counts, correlation)


def _measured(evidence: Evidence) -> list[Measured]:
    peak = evidence.peak or 1.0
    texts = []
    for excerpt in once_each(evidence.excerpts):
        share = np.clip(excerpt.activations / peak, 0, 1).astype(np.float32)
        counted = np.arange(len(excerpt.pieces)) >= excerpt.skip
        texts.append(Measured(reading(excerpt.pieces), share, counted, excerpt.kind))
    return texts


class _Table:
    """All counted tokens of a feature's texts in one row, and where rules hold among them."""

    def __init__(self, texts: Sequence[Measured]):
        self._all = joined([text.reading for text in texts])
        self._opens = np.concatenate([np.arange(len(text.share)) == 0 for text in texts])
        self.counted = np.concatenate([text.counted for text in texts])
        self.share = np.concatenate([text.share for text in texts])[self.counted]
        self._centred = self.share - self.share.mean()
        self._length = float(np.sqrt((self._centred**2).sum()))
        sizes = [len(text.share) for text in texts]
        self._begin = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
        self._owner = np.repeat(np.arange(len(texts)), sizes)[self.counted]
        self._held: dict[Rule, np.ndarray] = {}
        self._among: dict[Rule, np.ndarray] = {}
        self._clauses: dict[Rule, Clause] = {}

    def holds(self, rule: Rule) -> np.ndarray:
        """bool `[m]`: where among the counted tokens."""
        if rule not in self._among:
            self._among[rule] = self._everywhere(rule)[self.counted]
        return self._among[rule]

    def _everywhere(self, rule: Rule) -> np.ndarray:
        """bool: where among all tokens; what `rule.holds` says of each text, in fewer passes."""
        if rule not in self._held:
            self._held[rule] = self._looked_up(rule)
        return self._held[rule]

    def _looked_up(self, rule: Rule) -> np.ndarray:
        if rule.after is not None:
            before = np.concatenate([[False], self._everywhere(rule.after)[:-1]]) & ~self._opens
            return self._everywhere(dataclasses.replace(rule, after=None)) & before
        if rule.kind == "mention":
            met = np.cumsum(self._everywhere(Rule("word", rule.value)))
            return met > np.concatenate([[0], met])[self._begin]
        return rule.holds(self._all)

    def supported(self, rule: Rule) -> bool:
        """Whether the feature is on where the rule holds in more than one text."""
        texts = self._owner[self.holds(rule) & (self.share > ON)]
        return len(texts) > 0 and texts[0] != texts[-1]

    def clause(self, rule: Rule) -> Clause:
        """The rule at the nearest of the levels that words can tell apart."""
        if rule not in self._clauses:
            mean = 10 * float(self.share[self.holds(rule)].mean())
            self._clauses[rule] = Clause(rule, LEVELS[Clause(rule, mean).wording])
        return self._clauses[rule]

    def levels(self, clauses: Sequence[Clause]) -> np.ndarray:
        """float32 `[m]`: what the clauses together predict."""
        levels = np.zeros(len(self.share), np.float32)
        for clause in clauses:
            levels = np.maximum(levels, self.holds(clause.rule) * np.float32(clause.level))
        return levels

    def correlation(self, levels: np.ndarray) -> float:
        """Pearson's, with the activation; 0 where either does not vary."""
        centred = levels - levels.mean()
        length = float(np.sqrt((centred**2).sum())) * self._length
        return float(centred @ self._centred) / length if length > 0 else 0.0

    def count(self, rule: Rule) -> Count:
        """How the rule fares."""
        holds, on = self.holds(rule), self.share > ON
        mean = 10 * float(self.share[holds].mean()) if holds.any() else 0.0
        return Count(
            rule.phrase,
            int(holds.sum()),
            int((holds & on).sum()),
            int((~holds & on).sum()),
            int((~holds).sum()),
            mean,
        )


def _choose(table: _Table, texts: Sequence[Measured]) -> list[Clause]:
    """The clauses of most gain, one after the other, until none gains enough."""
    simple = [rule for rule in (*simple_rules(texts), *mentions(texts)) if table.supported(rule)]
    ranked = sorted(simple, key=lambda rule: -_worth(table, [], rule))
    refined = followers(ranked[:_REFINED], texts)
    rules = simple + [rule for rule in refined if table.supported(rule)]
    chosen: list[Clause] = []
    score = 0.0
    while len(chosen) < MOST_CLAUSES:
        best = max(rules, key=lambda rule: _worth(table, chosen, rule), default=None)
        if best is None or _worth(table, chosen, best) < score + _GAIN:
            return chosen
        chosen.append(table.clause(best))
        score = table.correlation(table.levels(chosen))
    return chosen


def _worth(table: _Table, chosen: Sequence[Clause], rule: Rule) -> float:
    """The correlation with a rule added, less what its length costs the reader."""
    after = _COST_AFTER if rule.after is not None else 0.0
    cost = _COST.get(rule.kind, _COST_ELSE) + after
    return table.correlation(table.levels([*chosen, table.clause(rule)])) - cost
