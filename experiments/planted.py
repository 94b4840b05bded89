"""Features that are known to the bit: planted in real text by a rule, with noise or without.

Excerpts are picked as a pass over a corpus picks them (`selfx.features.exemplars.mine`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfx.features.descriptions.candidates import quotable
from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.words import CLASSES, Reading, reading, stem
from selfx.features.exemplars.corpus import windows
from selfx.features.exemplars.excerpts import Evidence, Excerpt, Pieces
from selfx.features.exemplars.texts import read_texts


@dataclasses.dataclass(frozen=True)
class Passage:
    """A window of text, and what can be seen of its tokens."""

    pieces: tuple[str, ...]
    document: int
    start: int
    reading: Reading


def passages(text: Path, tokenizer: PreTrainedTokenizerBase, context: int) -> list[Passage]:
    """A text, cut into windows."""
    corpus = windows(tokenizer, read_texts(text), context=context)
    show, found = Pieces(tokenizer), []
    places = zip(corpus.tokens, corpus.lengths, corpus.document, corpus.start, strict=True)
    for ids, length, document, start in places:
        pieces = show(ids[:length])
        found.append(Passage(pieces, int(document), int(start), reading(pieces)))
    return found


def planted(
    some: Sequence[Passage], *, each: int, least: int, documents: int, seed: int
) -> list[tuple[str, Rule]]:
    """Rules, each with its kind: every class, and `each` of every other kind, drawn.

    A rule holds in at least `least` passages of at least as many `documents` as are asked for. What
    it stands after makes a difference: without it, it would hold in twice as many passages. A word
    has several forms.
    """
    rng = np.random.default_rng(seed)
    counts: Counter[Rule] = Counter()
    met: dict[Rule, set[int]] = {}
    for passage in some:
        for rule in set(possible(passage.reading)):
            counts[rule] += 1
            met.setdefault(rule, set()).add(passage.document)
    forms = Counter(stem(rule.value) for rule in counts if rule.kind == "word")
    found: dict[str, list[Rule]] = {}
    enough = (rule for rule in counts if counts[rule] >= least and len(met[rule]) >= documents)
    ordered = sorted(enough, key=repr)
    for index in rng.permutation(len(ordered)):
        rule = ordered[index]
        kept = found.setdefault(kind_of(rule), [])
        told_apart = rule.kind != "word" or forms[stem(rule.value)] > 1
        if rule.after is not None and rule.kind != "everything":
            told_apart = 2 * counts[rule] <= counts[dataclasses.replace(rule, after=None)]
        room = len(kept) < each or kind_of(rule) == "class"
        if told_apart and room and all(not same(rule, other) for other in kept):
            kept.append(rule)
    return [(kind, rule) for kind in sorted(found) for rule in found[kind]]


def possible(text: Reading) -> Iterator[Rule]:
    """Rules of every kind that hold somewhere in a text."""
    classes = [Rule("class", CLASSES[i]) for i in np.flatnonzero(text.classes.any(axis=0))]
    yield from classes
    for place, (bare, word) in enumerate(zip(text.bare, text.words, strict=True)):
        small = word.lower()
        if quotable(bare):
            yield Rule("token", bare)
        if len(small) > 3:
            yield from (Rule("word", small), Rule("mention", small))
            yield from (Rule("ending", small[-size:]) for size in (2, 3) if text.last[place])
            yield from (Rule("beginning", small[:size]) for size in (2, 3) if text.first[place])
        if place and quotable(text.bare[place - 1]):
            before = Rule("token", text.bare[place - 1])
            yield Rule("everything", after=before)
            if quotable(bare):
                yield Rule("token", bare, after=before)
            for index in np.flatnonzero(text.classes[place]):
                yield Rule("class", CLASSES[index], after=before)


def kind_of(rule: Rule) -> str:
    """What the figures call rules of this kind."""
    return rule.kind if rule.after is None else f"{rule.kind} after token"


def same(one: Rule, other: Rule) -> bool:
    """Whether two rules mean the same tokens by their wording: forms of a word have one stem."""
    if one.kind != other.kind or one.after != other.after:
        return False
    stems = one.kind in ("word", "mention") and stem(one.value) == stem(other.value)
    return stems or one.value == other.value


def activations(
    rule: Rule, some: Sequence[Passage], noise: tuple[float, float], rng: np.random.Generator
) -> list[np.ndarray]:
    """float32 `[t]` for each passage: 1 where the rule holds, but for the noise."""
    replaced, false = noise
    found = []
    for passage in some:
        on = rule.holds(passage.reading)
        level, draw = rng.random((2, len(on)))
        anything = draw < np.where(on, replaced, false)
        acts = np.where(anything, level, on).astype(np.float32)
        acts[:1] = 0  # as in a pass over a corpus, where the first token of a window never counts
        found.append(acts)
    return found


def evidence(
    some: Sequence[Passage], acts: Sequence[np.ndarray], kept: int, rng: np.random.Generator
) -> Evidence:
    """The excerpts that a pass over these passages would keep."""
    peaks = np.array([values.max(initial=0) for values in acts])
    order = rng.permutation(len(some))
    ordered = order[np.argsort(-peaks[order], kind="stable")]
    best: dict[int, int] = {}
    for index in ordered:
        if peaks[index] > 0:
            best.setdefault(some[index].document, int(index))
    on = [int(i) for i in rng.permutation(np.flatnonzero(peaks > 0))]
    picks = {"top": [*best.values()], "sample": on, "random": rng.permutation(len(some)).tolist()}
    found = [
        Excerpt(some[i].pieces, acts[i], kind, 1, some[i].document, some[i].start)
        for kind, chosen in picks.items()
        for i in chosen[:kept]
    ]
    return Evidence(0, tuple(found))
