"""A text as the target reads it, and a place in it found by a word or a number."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from selfx.errors import SelfxError
from selfx.features.exemplars.corpus import start_token
from selfx.tasks.facts import encode

LISTED = 80
"""How many tokens a message lists."""

_INDEX = re.compile(r"-?\d+")
_NTH = re.compile(r"(.+):(\d+)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A text in tokens.

    Attributes:
      text: the text.
      ids: its tokens.
      spans: the letters `[start, end)` of each; nothing for one that is not of the text.
      names: what each is called in the vocabulary.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    names: tuple[str, ...]

    def piece(self, place: int) -> str:
        """A token's own letters; of one that is not of the text, its name."""
        start, end = self.spans[place]
        return self.text[start:end] or self.names[place]

    def listed(self) -> str:
        """Every token with its number, as far as there is room."""
        shown = [f"{i} {self.piece(i)!r}" for i in range(min(len(self.ids), LISTED))]
        more = len(self.ids) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def tokens_of(tokenizer: Any, text: str, longest: int, *, bare: bool = False) -> Tokens:
    """A text in tokens.

    Args:
      tokenizer: the target's.
      text: the text.
      longest: how many tokens the target reads.
      bare: whether nothing is put around it but a token that begins texts, as windows of running
        text are read; else as the tokenizer would have it.

    Raises:
      SelfxError: it is too long, or not one token.
    """
    if bare:
        bos = start_token(tokenizer)
        lead = () if bos is None else (bos,)
        found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids = (*lead, *found["input_ids"])
        spans = [*((0, 0) for _ in lead), *map(tuple, found["offset_mapping"])]
    else:
        ids, spans = encode(tokenizer, text)
    if not 0 < len(ids) <= longest:
        raise SelfxError(
            f"a text of {len(ids)} tokens", expected=f"1 to {longest}, what the target reads"
        )
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return Tokens(text, tuple(ids), tuple(spans), tuple(map(str, names)))


def find_place(tokens: Tokens, at: str, name: str = "at") -> int:
    """The token that is meant.

    Args:
      tokens: the text.
      at: a number, counted from the end if negative; or some letters that begin and end where
        tokens do, which stand for their last token; `word:2` is their second occurrence.
      name: of the setting, for messages.

    Raises:
      SelfxError: there is no such place; it lists those that there are.
    """
    if _INDEX.fullmatch(at):
        index, count = int(at), len(tokens.ids)
        if -count <= index < count:
            return index % count
        raise _nowhere(tokens, name, at, f"{count} tokens")
    found, nth = _occurrences(tokens, at), _NTH.fullmatch(at)
    if found:
        return found[0]
    if nth is None:
        raise _nowhere(tokens, name, at, "no such token")
    found, number = _occurrences(tokens, nth[1]), int(nth[2])
    if not 1 <= number <= len(found):
        raise _nowhere(tokens, name, at, f"{nth[1]!r} is there {len(found)} times")
    return found[number - 1]


def _occurrences(tokens: Tokens, letters: str) -> list[int]:
    """The last token of each stretch of `letters` that begins and ends where tokens do."""
    letters = letters.strip()
    edges = [_trimmed(tokens.text, *span) for span in tokens.spans]
    starts = {start for start, end in edges if start < end}
    ends = {end: place for place, (start, end) in enumerate(edges) if start < end}
    places = (match.start() for match in re.finditer(f"(?={re.escape(letters)})", tokens.text))
    stretches = [(start, start + len(letters)) for start in places if letters]
    return [ends[end] for start, end in stretches if start in starts and end in ends]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch without the white space at its ends."""
    piece = text[start:end]
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def _nowhere(tokens: Tokens, name: str, at: str, why: str) -> SelfxError:
    return SelfxError(
        f"--{name.replace('_', '-')} {at!r}: {why}",
        expected=f"one of these tokens, by its letters or its number: {tokens.listed()}",
    )
