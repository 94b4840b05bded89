"""How a target's answer letter is read off: from its next-token scores, or from what it writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.interventions.batching import chunks, pad, repeat_last, rows_for
from selfx.interventions.reuse import before, begin, choice_logits
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


def letter_scores(
    target: LanguageModel, groups: Sequence[Sequence[str]], batch_size: int
) -> list[np.ndarray]:
    """Logits float32 `[n, 4]` of the letters after each of a group's `n` user prompts.

    What prompts share is run once: the system message for all of them, the question for those of a
    group, which differ in the hint alone.
    """
    begun, letters = letter_tokens(target.tokenizer)
    ids = [[_ids(target, prompt, begun) for prompt in group] for group in groups]
    shared = [_shared(group) for group in ids]
    trunk = min(_shared([group[0] for group in ids]), min(shared) - 1)
    opening = None
    if trunk > 0:
        _, opening = begin(target.model, *pad([ids[0][0][:trunk]], 1))
    scores = [np.zeros((len(group), len(letters)), np.float32) for group in groups]
    order = sorted(range(len(groups)), key=lambda index: (shared[index], index))
    for part in chunks(order, batch_size):
        middles = [ids[g][0][trunk : shared[g]] for g in part]
        tokens, mask = pad(middles, rows_for(len(part), batch_size))
        past = _from(opening, [0] * len(tokens), [trunk] * len(tokens), tokens.shape[1])
        _, cache = begin(target.model, tokens, mask, past)
        ends = [(row, g, n) for row, g in enumerate(part) for n in range(len(ids[g]))]
        for some in chunks(sorted(ends, key=lambda end: len(ids[end[1]][end[2]])), batch_size):
            full = repeat_last(some, rows_for(len(some), batch_size))
            tokens, mask = pad([ids[g][n][shared[g] :] for _, g, n in full], len(full))
            rows, starts = [row for row, _, _ in full], [shared[g] for _, g, _ in full]
            past = _from(cache, rows, starts, tokens.shape[1])
            found = choice_logits(target.model, past, tokens, mask, np.array(letters, np.int32))
            for (_, g, n), score in zip(some, np.asarray(found), strict=False):
                scores[g][n] = score
    return scores


def _from(cache: Any, rows: list[int], starts: list[int], room: int) -> Any:
    """What `rows` of a cache held before `starts`, and room to go on; None from None."""
    if cache is None:
        return None
    return before(cache, np.array(rows, np.int32), np.array(starts, np.int32), room=room)


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
