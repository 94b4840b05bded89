"""How a target's answer letter is read off: from its next-token scores, or from what it writes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.interventions.batching import chunks, pad, repeat_last, rows_for
from selfx.interventions.reuse import before, begin, choose
from selfx.models.cache import Cache
from selfx.models.generate import generate
from selfx.tasks.questions import LETTERS, full_prompt
from selfx.weights.load import LanguageModel

NEW_TOKENS = 12
_WRITTEN = re.compile(r"answer\s*(?:is)?\s*:?\s*\(?([A-D])\b", re.IGNORECASE)
_ALONE = re.compile(r"\s*\(?([A-D])\b")


def letter_tokens(tokenizer: Any) -> tuple[str, tuple[int, ...]]:
    """How to begin the answer so that one token is the letter, and the letters' tokens.

    Raises:
      SelfxError: the tokenizer has no token for a letter.
    """
    for begun, space in (("Answer:", " "), ("Answer: ", "")):
        ids = [tokenizer.encode(space + letter, add_special_tokens=False) for letter in LETTERS]
        if all(len(found) == 1 for found in ids):
            return begun, tuple(found[0] for found in ids)
    raise SelfxError("the target's tokenizer splits the letters A to D", expected="a token each")


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a target is about to answer to the `n` user prompts of a group.

    Attributes:
      scores: logits float32 `[n, 4]` of the letters.
      states: float32 `[n, l, d]`, its residual after some layers where the letter comes next.
    """

    scores: np.ndarray
    states: np.ndarray


def letter_scores(
    target: LanguageModel, groups: Sequence[Sequence[str]], batch_size: int
) -> list[np.ndarray]:
    """Logits float32 `[n, 4]` of the letters after each of a group's `n` user prompts."""
    return [each.scores for each in about_to_answer(target, groups, batch_size)]


def about_to_answer(
    target: LanguageModel,
    groups: Sequence[Sequence[str]],
    batch_size: int,
    layers: tuple[int, ...] = (),
) -> list[Scored]:
    """The letters' scores for each group of prompts, and the residuals after `layers`.

    What prompts share is run once: the system message for all of them, the question for those of a
    group, which differ in the hint alone.
    """
    if not groups:
        return []
    asked = _Asked(target, groups, batch_size, layers)
    for part in chunks(sorted(range(len(groups)), key=lambda g: (asked.shared[g], g)), batch_size):
        asked.run(part)
    return asked.found


class _Asked:
    """Groups of prompts in tokens, what they share, and what was found so far."""

    def __init__(
        self,
        target: LanguageModel,
        groups: Sequence[Sequence[str]],
        batch_size: int,
        layers: tuple[int, ...],
    ):
        begun, letters = letter_tokens(target.tokenizer)
        self.model, self.size, self.layers = target.model, batch_size, layers
        self.letters = np.array(letters, np.int32)
        self.ids = [[_ids(target, prompt, begun) for prompt in group] for group in groups]
        self.shared = [_shared(group) for group in self.ids]
        held = (len(layers), target.config.d_model)
        self.found = [
            Scored(
                np.zeros((len(group), len(letters)), np.float32),
                np.zeros((len(group), *held), np.float32),
            )
            for group in groups
        ]
        self.trunk = min(_shared([group[0] for group in self.ids]), min(self.shared) - 1)
        self.opening: Cache | None = None
        if self.trunk > 0:
            _, self.opening = begin(self.model, *pad([self.ids[0][0][: self.trunk]], 1))

    def run(self, part: Sequence[int]) -> None:
        """Scores of some groups: first what each shares, then each prompt's own end."""
        middles = [self.ids[g][0][max(self.trunk, 0) : self.shared[g]] for g in part]
        tokens, mask = pad(middles, rows_for(len(part), self.size))
        past = None
        if self.opening is not None:
            rows = np.zeros(len(tokens), np.int32)
            past = before(self.opening, rows, rows + self.trunk, room=tokens.shape[1])
        _, cache = begin(self.model, tokens, mask, past)
        ends = [(row, g, n) for row, g in enumerate(part) for n in range(len(self.ids[g]))]
        ends.sort(key=lambda end: len(self.ids[end[1]][end[2]]) - self.shared[end[1]])
        for some in chunks(ends, self.size):
            self._finish(cache, some)

    def _finish(self, cache: Cache, ends: Sequence[tuple[int, int, int]]) -> None:
        """Scores of some prompts `(row of the cache, group, number in it)`."""
        full = repeat_last(ends, rows_for(len(ends), self.size))
        tokens, mask = pad([self.ids[g][n][self.shared[g] :] for _, g, n in full], len(full))
        rows = np.array([row for row, _, _ in full], np.int32)
        start = np.array([self.shared[g] for _, g, _ in full], np.int32)
        past = before(cache, rows, start, room=tokens.shape[1])
        found = choose(self.model, past, tokens, mask, self.letters, layers=self.layers)
        for (_, g, n), scores, states in zip(ends, *map(np.asarray, found), strict=False):
            self.found[g].scores[n], self.found[g].states[n] = scores, states


def asked_ids(target: LanguageModel, user: str) -> list[int]:
    """The conversation in tokens, up to where the letter comes next."""
    return _ids(target, user, letter_tokens(target.tokenizer)[0])


def written_letters(
    target: LanguageModel, prompts: Sequence[str], batch_size: int
) -> list[str | None]:
    """The letter that the target writes after each user prompt, None where there is none."""
    ids = [_ids(target, prompt, "") for prompt in prompts]
    letters: list[str | None] = [None] * len(prompts)
    for part in chunks(sorted(range(len(ids)), key=lambda n: len(ids[n])), batch_size):
        tokens, mask = pad([ids[n] for n in part], rows_for(len(part), batch_size))
        out = generate(
            target.model,
            tokens,
            mask=mask,
            max_new_tokens=NEW_TOKENS,
            end_ids=target.eos_ids,
        )
        new, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
        for row, n in enumerate(part):
            letters[n] = parse_letter(str(target.tokenizer.decode(new[row, : lengths[row]])))
    return letters


def parse_letter(text: str) -> str | None:
    """The letter of `Answer: x`, or of a text that begins with a bare letter."""
    found = _WRITTEN.search(text) or _ALONE.match(text)
    return found[1].upper() if found else None


def count_tokens(target: LanguageModel, prompt: str) -> int:
    """How long the whole conversation is."""
    return len(_ids(target, prompt, ""))


def _ids(target: LanguageModel, user: str, begun: str) -> list[int]:
    text = full_prompt(target.tokenizer, user, begun)
    return target.tokenizer(text, add_special_tokens=False)["input_ids"]


def _shared(texts: Sequence[Sequence[int]]) -> int:
    """How many first tokens are the same in all, at least one left over in each."""
    longest = min(map(len, texts)) - 1
    first = texts[0]
    same = (all(text[n] == first[n] for text in texts) for n in range(longest))
    return next((n for n, alike in enumerate(same) if not alike), longest)
