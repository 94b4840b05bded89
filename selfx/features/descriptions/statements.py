"""Statements: a description as rules with levels, in words and back.

    Fires strongly on digits after "$", forms of "pay"; moderately on "%"; weakly on years.
    Promotes "million", "billion".

The words for how strongly stand for levels from 0 to 10, ten being the feature's highest
activation. The same statement is what the built-in describer measures and what the built-in
simulator predicts from, and what an explainer taught such descriptions writes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from selfx.features.descriptions.rules import PATTERN, Rule, rule_at
from selfx.features.descriptions.words import Reading, listed

LEVELS: dict[str, float] = {"strongly on": 9.0, "moderately on": 5.0, "weakly on": 2.0}
"""What each wording says, and the level it stands for."""

NOTHING = "Fires on nothing that can be named by its tokens"
NEVER = "Was never on"
_LEVEL = re.compile("|".join(f"(?P<_{i}>{words})" for i, words in enumerate(LEVELS)), re.I)
_PROMOTES = re.compile(r"\bpromotes\b", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"\n]+)"')
_BARE = re.compile(r"[^\W_]{2,}(?:['’][^\W_]+)*")
_FREE_LEVEL = LEVELS["moderately on"]

_FILLERS = listed(
    """
    fires fire strongly moderately weakly also on promotes nothing that can be named by its was
    never tokens the a an of in to for and or with at from as is are this these those it they
    which words word text texts token tokens mentions mention forms form after before beginning
    ending everything feature features activates activate activation active detects detect
    responds respond references reference referring refers related relating relates associated
    specific specifically various particular particularly especially terms term phrases phrase
    concept concepts occurrences occurrence instances instance contexts context types type kinds
    kind such like including indicates indicating indicate expressions expression discussing
    discussions about not other often usually when where followed following preceding used use
    using
    """
)


@dataclasses.dataclass(frozen=True)
class Clause:
    """A rule and how strongly the feature is on where it holds, from 0 to 10."""

    rule: Rule
    level: float

    @property
    def wording(self) -> str:
        """The words for its level: those of the nearest."""
        return min(LEVELS, key=lambda words: abs(LEVELS[words] - self.level))


@dataclasses.dataclass(frozen=True)
class Statement:
    """What is said of a feature.

    Attributes:
      clauses: where it is on; elsewhere it is off.
      promoted: tokens whose logits it raises.
    """

    clauses: tuple[Clause, ...] = ()
    promoted: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The statement in plain English."""
        groups = [
            (words, [clause.rule.phrase for clause in self.clauses if clause.wording == words])
            for words in LEVELS
        ]
        said = "; ".join(f"{words} {', '.join(phrases)}" for words, phrases in groups if phrases)
        first = f"Fires {said}." if said else f"{NOTHING}."
        return f"{first} {promotes(self.promoted)}".rstrip()

    def predict(self, text: Reading) -> np.ndarray:
        """float32 `[t]`: the level at every token, of the strongest clause that holds there."""
        levels = np.zeros(len(text.bare), np.float32)
        for clause in self.clauses:
            levels = np.maximum(levels, clause.rule.holds(text) * np.float32(clause.level))
        return levels


def promotes(tokens: Iterable[str]) -> str:
    """The sentence that names promoted tokens, or nothing."""
    quoted = ", ".join(f'"{token}"' for token in tokens)
    return f"Promotes {quoted}." if quoted else ""


def parse(text: str) -> Statement:
    """The statement that a description makes, as far as it can be read.

    Rules are read wherever they stand, each at the level named last before it. Bare words that are
    left over, and are not about describing, count as words to be found in the text.
    """
    outputs = _PROMOTES.search(text)
    said, rest = (text[: outputs.start()], text[outputs.end() :]) if outputs else (text, "")
    clauses, bare = [], said
    place = 0
    while (match := PATTERN.search(said, place)) is not None:
        rule, place = rule_at(match, said)
        clauses.append(Clause(rule, _level_before(said[: match.start()])))
        bare = bare[: match.start()] + " " * (place - match.start()) + bare[place:]
    clauses += [Clause(Rule("word", word), _FREE_LEVEL) for word in _content(bare)]
    return Statement(tuple(dict.fromkeys(clauses)), tuple(_QUOTED.findall(rest)))


def _level_before(text: str) -> float:
    found = [match.group().lower() for match in _LEVEL.finditer(text)]
    return LEVELS[found[-1]] if found else _FREE_LEVEL


def _content(text: str) -> list[str]:
    words = (match.group().lower() for match in _BARE.finditer(text))
    return [word for word in words if word not in _FILLERS]
