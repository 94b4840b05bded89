"""Texts packed into rows of one length, for training on activations: no room is left unused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfx.errors import SelfxError
from selfx.features.exemplars.corpus import start_token

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")
"""What many models were shown between documents, where no token begins one."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """Rows of tokens; documents follow one another, also within a row.

    Attributes:
      tokens: int32 `[r, t]`, `r` rows.
      mask: bool `[r, t]`, True at real tokens: all but the end of the last row.
      kept: bool `[r, t]`, the tokens whose activations are used.
      bos: the token that every row begins with, or None.
    """

    tokens: np.ndarray
    mask: np.ndarray
    kept: np.ndarray
    bos: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def digest(self) -> str:
        """A hash of all that is in it."""
        total = hashlib.sha256(repr((self.tokens.shape, self.bos)).encode())
        for part in (self.tokens, self.mask, self.kept):
            total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()


def pack(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    context: int = 128,
    bos: bool | None = None,
    skip: int = 1,
) -> Packed:
    """The documents' tokens in rows of `context`, separated as the model saw them in its training.

    Where the tokenizer begins a text with a token of its own, that token begins every row and every
    document; elsewhere the token that ends texts stands between documents. A token sees all of its
    row that is before it, other documents included.

    Args:
      tokenizer: the model's.
      documents: their texts.
      context: `t`.
      bos: whether a token begins each row; None does as the tokenizer does.
      skip: how many first positions of a row are not used: the residual at position 0 is tens of
        times longer than any other. Separators are never used.

    Raises:
      SelfxError: no text, no room in a row, or no such token.
    """
    start = start_token(tokenizer, bos)
    lead = [] if start is None else [start]
    if context <= max(skip, len(lead)):
        raise SelfxError(f"context={context}", expected=f"more than {max(skip, len(lead))} tokens")
    mark = start if start is not None else _end(tokenizer)
    stream: list[int] = []
    for text in documents:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        stream += [mark] if mark is not None and stream and ids else []
        stream += ids
    if len(stream) <= skip:
        raise SelfxError("a corpus without text", expected="documents of more than a token")
    width = context - len(lead)
    tokens = np.zeros((-(-len(stream) // width), context), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, real, at in zip(tokens, mask, range(0, len(stream), width), strict=True):
        ids = lead + stream[at : at + width]
        row[: len(ids)], real[: len(ids)] = ids, True
    kept = mask & (np.arange(context) >= max(skip, len(lead)))
    return Packed(tokens, mask, kept & (tokens != (-1 if mark is None else mark)), start)


def _end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token between documents, where none begins them."""
    vocabulary = tokenizer.get_vocab()
    named = [vocabulary[name] for name in END_OF_TEXT if name in vocabulary]
    return named[0] if named else tokenizer.eos_token_id
