"""One text in the tokens of two models, and which of them stand for the same text so far.

    target      The| cat| sat|down        positions paired: (1, 2), (3, 4)
    explainer   T|he| cat| s|atdown

Two tokens are a pair where they end at the same character: both models have then read the same. A
first position is never paired: nothing stands before it, and its residual is unlike any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from selfx.errors import SelfxError
from selfx.features.exemplars.corpus import start_token
from selfx.weights.load import LanguageModel

CHARACTERS = 512
"""Of a piece of text at most: it is read by itself."""

CONTEXT = 256
"""Tokens of a piece at most; those after it are left out."""

SHARES = 20
"""No text gives more than such a part of all pairs, so that a few long ones do not crowd out."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of text as both models read it.

    Attributes:
      text: the number of the text that it is of.
      target, explainer: its tokens for each.
      places: int32 `[n, 2]`, positions in both that end at the same character.
    """

    text: int
    target: tuple[int, ...]
    explainer: tuple[int, ...]
    places: np.ndarray


Reading = Callable[[str], tuple[tuple[int, ...], dict[int, int]]]


def reading(tokenizer: PreTrainedTokenizerBase, limit: int) -> Reading:
    """`text -> (ids, {character: position})`: a text's tokens, and at which characters they end.

    A token that ends within a character, as byte-level ones may, ends nowhere. The first position
    is left out, and so are all from `limit` on.

    Raises:
      SelfxError: the tokenizer does not know where in the text its tokens are.
    """
    if not tokenizer.is_fast:
        raise SelfxError(
            f"a {type(tokenizer).__name__}, which keeps no offsets", expected="a fast tokenizer"
        )
    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.post_processor = None  # it may trim the spaces from the offsets
    inner.no_truncation()
    inner.no_padding()
    start = start_token(tokenizer)
    lead = () if start is None else (start,)

    def read(text: str) -> tuple[tuple[int, ...], dict[int, int]]:
        found = inner.encode(text, add_special_tokens=False)
        following = [begin for begin, _ in found.offsets[1:]] + [len(text)]
        spans = zip(found.offsets, following, strict=True)
        ends = {
            end: place
            for place, ((begin, end), after) in enumerate(spans, len(lead))
            if begin < end <= after and 0 < place < limit
        }
        return (*lead, *found.ids)[:limit], ends

    return read


def paired_texts(
    target: LanguageModel,
    explainer: LanguageModel,
    texts: Sequence[str],
    *,
    limit: int,
    context: int = CONTEXT,
) -> list[Piece]:
    """The texts in pieces, in the tokens of both models, until there are `limit` pairs.

    Args:
      target, explainer: the models.
      texts: what they read.
      limit: about how many pairs are wanted; no text gives more than its share of them.
      context: how many tokens of a piece a model reads.

    Raises:
      SelfxError: no two tokens are a pair, or a tokenizer keeps no offsets.
    """
    if limit < 1:
        raise SelfxError(f"a limit of {limit} tokens", expected="a positive number")
    reads = [
        reading(lm.tokenizer, min(context, lm.config.max_positions)) for lm in (target, explainer)
    ]
    share = -(-limit // max(min(len(texts), SHARES), 1))
    pieces: list[Piece] = []
    total = 0
    for number, text in enumerate(texts):
        if total >= limit:
            break
        own = 0
        for part in cut(text):
            if own >= share:
                break
            piece = _piece(number, part, *reads)
            if len(piece.places):
                pieces.append(piece)
                own += len(piece.places)
        total += own
    if not pieces:
        raise SelfxError(
            f"{len(texts)} texts in which no token of {target.name} ends where one of "
            f"{explainer.name} does",
            expected="texts of more than a word",
        )
    return pieces


def _piece(number: int, text: str, read_target: Reading, read_explainer: Reading) -> Piece:
    """One piece, whatever pairs it has."""
    (ours, here), (theirs, there) = read_target(text), read_explainer(text)
    both = [(here[end], there[end]) for end in here if end in there]
    return Piece(number, ours, theirs, np.array(both, np.int32).reshape(-1, 2))


def cut(text: str, size: int = CHARACTERS) -> Iterator[str]:
    """The text in parts of at most `size` characters, cut before a space where there is one."""
    start = 0
    while start < len(text):
        end = start + size
        space = text.rfind(" ", start + 1, end + 1) if end < len(text) else -1
        end = space if space > 0 else end
        yield text[start:end]
        start = end
