"""Texts as windows of tokens: what exemplars are looked for in."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfx.errors import SelfxError


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Windows of at most `t` tokens, each read by itself; none spans two documents.

    Attributes:
      tokens: int32 `[w, t]`, 0 after a window's end.
      lengths: int32 `[w]`.
      document: int32 `[w]`, which document a window is of.
      start: int32 `[w]`, where in its document it starts, in tokens.
      skip: how many first positions of a window do not count: nothing stands before them, and
        the residual at position 0 is unlike any other.
      lead: how many of these are tokens put before the text, none of its own.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    document: np.ndarray
    start: np.ndarray
    skip: int
    lead: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def digest(self) -> str:
        """A hash of all that is in it."""
        total = hashlib.sha256(f"{self.skip} {self.lead} {self.tokens.shape}".encode())
        for part in (self.tokens, self.lengths, self.document, self.start):
            total.update(np.ascontiguousarray(part, np.int32).tobytes())
        return total.hexdigest()


def windows(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    context: int = 64,
    bos: int | None = None,
    skip: int = 1,
) -> Corpus:
    """The corpus of some documents, cut into windows.

    Args:
      tokenizer: the model's.
      documents: their texts.
      context: `t`, the length of a window, the token before it included.
      bos: a token to put before every window, as the model expects it; None puts nothing there.
      skip: how many first positions do not count.

    Raises:
      SelfxError: there is no text, or no room in a window.
    """
    lead = 0 if bos is None else 1
    if context <= max(skip, lead):
        raise SelfxError(f"context={context}", expected=f"more than {max(skip, lead)} tokens")
    rows, places = [], []
    for number, text in enumerate(documents):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        for start in range(0, len(ids), context - lead):
            row = [bos][:lead] + ids[start : start + context - lead]
            if len(row) > skip:
                rows.append(row)
                places.append((len(row), number, start))
    if not rows:
        raise SelfxError("a corpus without text", expected="documents of more than a token")
    tokens = np.zeros((len(rows), context), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    lengths, document, start = np.array(places, np.int32).T
    return Corpus(tokens, lengths, document, start, skip, lead)


def start_token(tokenizer: PreTrainedTokenizerBase, wanted: bool | None = None) -> int | None:
    """The token that begins a text, or None.

    Args:
      tokenizer: the model's.
      wanted: whether there is to be one; None does as the tokenizer does.

    Raises:
      SelfxError: it is wanted and the tokenizer has none.
    """
    token = tokenizer.bos_token_id
    if wanted is None:
        return token if token is not None and tokenizer("a").input_ids[:1] == [token] else None
    if wanted and token is None:
        raise SelfxError(
            "bos=True for a tokenizer without a token that begins texts", expected="bos=False"
        )
    return token if wanted else None
