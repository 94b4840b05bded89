"""Whether the tokenizer gives texts back, stays inside the embedding, and what it adds."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfx.doctor.report import Check, skipped, stated
from selfx.doctor.texts import CHAT, ROUND_TRIP


def tokenizer_checks(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Iterator[Check]:
    """The checks of this file, in turn; `vocab_size` is the rows of the embedding."""
    yield round_trip(tokenizer)
    yield ids(tokenizer, vocab_size)
    yield special(tokenizer, vocab_size)
    yield begins(tokenizer)
    yield chat(tokenizer, vocab_size)


def round_trip(tokenizer: PreTrainedTokenizerBase) -> Check:
    """Texts against themselves, encoded and decoded."""
    about = "a text is itself after encoding and decoding"
    problems: list[str] = []
    changes: list[str] = []
    for text in ROUND_TRIP:
        back = _decode(tokenizer, _encode(tokenizer, text))
        if back == text:
            continue
        words = f"{_short(text)} becomes {_short(back)}"
        by_design = _decode(tokenizer, _encode(tokenizer, back)) == back and (
            _essence(back) == _essence(text) or _has_unknown(tokenizer, text)
        )
        (changes if by_design else problems).append(words)
    note = f"it normalises by design: {'; '.join(changes[:3])}" if changes else ""
    return stated("tokenizer: round trip", about, problems[:4], note)


def ids(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Check:
    """Token ids against the rows of the embedding."""
    about = "every token has a row in the embedding"
    largest = max(tokenizer.get_vocab().values())
    used = max(max(_encode(tokenizer, text), default=0) for text in ROUND_TRIP)
    problems = [
        f"{what} has id {found}, the embedding {vocab_size} rows"
        for what, found in {"the vocabulary's last token": largest, "a text's token": used}.items()
        if found >= vocab_size
    ]
    spare = vocab_size - 1 - largest
    return stated(
        "tokenizer: ids", about, problems, f"{spare} rows without a token" if spare else ""
    )


def special(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Check:
    """Each special token, written out in a text."""
    about = "each special token is one token, its own id, and a row of the embedding"
    problems = []
    for token, index in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True):
        found = _encode(tokenizer, str(token))
        if index is None:
            problems.append(f"{token} has no id")
        elif found != [index]:
            problems.append(f"{token} is encoded as {found}, not as {[index]}")
        elif index >= vocab_size:
            problems.append(f"{token} has id {index} of {vocab_size} rows")
    return stated("tokenizer: special tokens", about, problems)


def begins(tokenizer: PreTrainedTokenizerBase) -> Check:
    """What is put before and after a text, against what is declared."""
    about = "a text begins and ends with the tokens that the tokenizer declares"
    plain, whole = _encode(tokenizer, "text"), list(tokenizer("text").input_ids)
    before, after = _around(plain, whole)
    problems = []
    for end, added in (("bos", before), ("eos", after)):
        token, declared = getattr(tokenizer, f"{end}_token_id"), _declares(tokenizer, end)
        if declared is not None and declared != (token in added if token is not None else False):
            does = "adds none" if declared else "adds one"
            problems.append(f"add_{end}_token is {declared}, and it {does}")
    words = [
        f"{tokenizer.convert_ids_to_tokens(added)} {where}"
        for added, where in ((before, "before"), (after, "after"))
        if added
    ]
    return stated(
        "tokenizer: ends",
        about,
        problems,
        f"adds {' and '.join(words)}" if words else "adds nothing",
    )


def chat(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Check:
    """A conversation by the template's tokens and by its text."""
    name = "tokenizer: chat template"
    about = "a conversation gives the same tokens by its template and by the template's text"
    if not tokenizer.chat_template:
        return skipped(name, about, "it has no chat template")
    turns: list[dict[str, str]] = [dict(turn) for turn in CHAT]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    made: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    tokens = list(made["input_ids"])
    problems = []
    if tokens != _encode(tokenizer, text):
        problems.append("the tokens of its text are others")
    if max(tokens) >= vocab_size:
        problems.append(f"token {max(tokens)} of {vocab_size} rows")
    bos = tokenizer.bos_token_id
    if bos is not None and tokens[:2] == [bos, bos]:
        problems.append("it begins with the token of beginning twice")
    if CHAT[0]["content"] not in text:
        problems.append("it leaves out what the user said")
    return stated(name, about, problems, f"{len(tokens)} tokens")


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def _essence(text: str) -> str:
    """A text without what a tokenizer may normalise: spaces, case, composed characters."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _has_unknown(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown in _encode(tokenizer, text)


def _around(plain: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """What stands before and after a text's own tokens."""
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return whole, []


def _declares(tokenizer: PreTrainedTokenizerBase, end: str) -> bool | None:
    """Whether `tokenizer_config.json` says that the token is added; None if it says nothing."""
    found = tokenizer.init_kwargs.get(f"add_{end}_token")
    return found if isinstance(found, bool) else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
