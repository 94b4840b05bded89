"""Which rules are worth measuring for a feature: those that its own exemplars suggest.

Nothing here decides; `selfx.features.descriptions.describe` measures every candidate on all tokens.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.words import CLASSES, Reading, stem

MOST = 24
"""Candidates of each kind."""

_EDGES = range(2, 5)
"""Lengths of the beginnings and endings of words."""

Mass = dict[str, dict[str, float]]
"""`{kind: {value: activation}}`."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A text that can be looked at, with activations as shares of the feature's highest.

    Attributes:
      reading: what can be seen of its tokens.
      share: float32 `[t]`, from 0 to 1.
      counted: bool `[t]`, which tokens count.
      kind: one of `selfx.features.exemplars.one_pass.KINDS`.
    """

    reading: Reading
    share: np.ndarray
    counted: np.ndarray
    kind: str


def simple_rules(texts: Sequence[Measured]) -> list[Rule]:
    """Classes, and the tokens, words, endings and beginnings that carry most of the activation."""
    mass: Mass = defaultdict(lambda: defaultdict(float))
    surface: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for place in np.flatnonzero(text.counted & (text.share > 0)):
            _weigh(mass, surface, text.reading, int(place), float(text.share[place]))
    rules = [Rule("token", value) for value in _most(mass["token"])]
    rules += [Rule("class", phrase) for phrase in CLASSES]
    for found in _most(mass["word"]):
        rules.append(Rule("word", surface[found].most_common(1)[0][0]))
    rules += [Rule("ending", value) for value in _most(mass["ending"])]
    rules += [Rule("beginning", value) for value in _most(mass["beginning"])]
    return rules


def followers(rules: Iterable[Rule], texts: Sequence[Measured]) -> list[Rule]:
    """Each rule, and everything, after what most often stands before the activation."""
    before: dict[str, float] = defaultdict(float)
    for text in texts:
        for place in np.flatnonzero(text.counted & (text.share > 0)):
            if place and quotable(text.reading.bare[place - 1]):
                before[text.reading.bare[place - 1]] += float(text.share[place])
    earlier = [Rule("token", value) for value in _most(before, MOST // 2)]
    earlier += [Rule("class", phrase) for phrase in CLASSES]
    bases = [Rule("everything"), *rules]  # of equals the plainer one, which is the first
    return [dataclasses.replace(rule, after=other) for rule in bases for other in earlier]


def mentions(texts: Sequence[Measured]) -> list[Rule]:
    """Words that stand at or before activations, and seldom in texts taken at random."""
    on, off, surface = Counter[str](), Counter[str](), defaultdict[str, Counter[str]](Counter)
    for text in texts:
        active = np.flatnonzero(text.counted & (text.share > 0.1))
        seen = set(filter(None, text.reading.stems[: active[-1] + 1])) if len(active) else set()
        on.update(seen)
        for word in text.reading.words:
            surface[stem(word)][word.lower()] += 1
        if text.kind == "random":
            off.update(set(filter(None, text.reading.stems)))
    scores = {word: n / (1 + off[word]) for word, n in on.items() if n > 1}
    return [
        Rule("mention", surface[word].most_common(1)[0][0])
        for word in _most(scores, MOST // 2)
        if len(word) > 2
    ]


def quotable(value: str) -> bool:
    """Whether a token can stand in quotation marks."""
    return bool(value) and '"' not in value and "\ufffd" not in value and value.isprintable()


def _weigh(
    mass: Mass,
    surface: dict[str, Counter[str]],
    text: Reading,
    place: int,
    share: float,
) -> None:
    """Books a token's activation on all that it could be on account of."""
    if quotable(text.bare[place]):
        mass["token"][text.bare[place]] += share
    word = text.words[place].lower()
    if not word:
        return
    mass["word"][text.stems[place]] += share
    surface[text.stems[place]][word] += 1
    for size in _EDGES:
        if len(word) > size and text.last[place]:
            mass["ending"][word[-size:]] += share
        if len(word) > size and text.first[place]:
            mass["beginning"][word[:size]] += share


def _most(counted: Mapping[str, float], most: int = MOST) -> list[str]:
    """The keys of the highest counts; of equal ones the first in the alphabet."""
    return sorted(counted, key=lambda value: (-counted[value], value))[:most]
