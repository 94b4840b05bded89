"""Tokenizers: of a Hugging Face folder, or rebuilt from what a GGUF file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from selfx.errors import SelfxError

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""Tokens that end a turn of a chat, where the vocabulary has them."""

_CONTROL, _USER_DEFINED = 3, 4  # GGUF's token types that are matched in the text before any other
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def from_folder(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder; nothing is downloaded.

    Raises:
      SelfxError: the folder holds none that can be read.
    """
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # transformers raises whatever a damaged file happens to cause
        raise SelfxError(
            f"no readable tokenizer in {path}: {error}",
            expected="tokenizer.json and tokenizer_config.json, as saved by transformers",
            hint="fetch the folder again",
        ) from error


def from_gguf(metadata: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that a GGUF file's metadata describes, with its chat template.

    Raises:
      SelfxError: it is of a kind, or splits text in a way, that is not known.
    """
    fields = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    if fields.get("model") != "gpt2":
        raise SelfxError(
            f"its tokenizer is of the kind {fields.get('model')!r}",
            expected="'gpt2': byte-level BPE",
            hint="use the Hugging Face folder of the same model",
        )
    tokens, roles = _tokens(fields), _roles(fields)
    tokenizer = _byte_level_bpe(fields, tokens)
    _add_special(tokenizer, fields, tokens)
    _add_ends(tokenizer, fields, roles)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **roles,
    )


def _tokens(fields: Mapping[str, Any]) -> list[str]:
    for key in ("tokens", "merges", "token_type"):
        if not isinstance(fields.get(key), list):
            raise SelfxError(f"its metadata lacks tokenizer.ggml.{key}", expected="a list")
    tokens = fields["tokens"]
    if len(set(tokens)) != len(tokens):
        raise SelfxError("its vocabulary holds a token twice", expected="each token once")
    if len(fields["token_type"]) != len(tokens):
        raise SelfxError("its tokens and token types differ in number", expected="a type a token")
    return tokens


def _roles(fields: Mapping[str, Any]) -> dict[str, str]:
    """`{role: token}` of the special tokens that the file names."""
    tokens, roles = fields["tokens"], {}
    for role, key in _ROLES.items():
        index = fields.get(key)
        if index is None:
            continue
        if not 0 <= index < len(tokens):
            raise SelfxError(
                f"its tokenizer.ggml.{key} is {index}", expected=f"below {len(tokens)}, the tokens"
            )
        roles[role] = tokens[index]
    return roles


def _byte_level_bpe(fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    split = fields.get("pre")
    if split not in _SPLITS:
        raise SelfxError(
            f"its tokenizer splits text by {split!r}",
            expected=f"one of {', '.join(_SPLITS)}",
            hint="use the Hugging Face folder of the same model",
        )
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    whole_words_first = split in _LLAMA3
    try:
        bpe = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words_first)
    except Exception as error:  # the Rust library raises the bare class
        raise SelfxError(f"its merges do not fit its vocabulary: {error}") from error
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = _SPLITS[split](bool(fields.get("add_space_prefix", False)))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gpt2(space: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=True)


def _smollm(space: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2(space)])


def _llama3(space: bool) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_LLAMA3_PATTERN), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    return pre_tokenizers.Sequence([split, plain])


_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_SPLITS: dict[str, Callable[[bool], pre_tokenizers.PreTokenizer]] = {
    "smollm": _smollm,
    "gpt-2": _gpt2,
    "default": _gpt2,
    **dict.fromkeys(_LLAMA3, _llama3),
}


def _add_special(tokenizer: Tokenizer, fields: Mapping[str, Any], tokens: list[str]) -> None:
    """Has special tokens recognised inside text; they keep their ids."""
    kinds = dict(zip(tokens, fields["token_type"], strict=True))
    control = [token for token, kind in kinds.items() if kind == _CONTROL]
    user = [token for token, kind in kinds.items() if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in user])


def _add_ends(tokenizer: Tokenizer, fields: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    """Has every text begun or ended by a token, where the file asks for it."""
    implied = fields["pre"] in _LLAMA3  # the format's own rule where such a file does not say
    first = [roles["bos_token"]] if _asked(fields, roles, "bos", implied) else []
    last = [roles["eos_token"]] if _asked(fields, roles, "eos", False) else []
    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(first + last)]
    byte_level = processors.ByteLevel(trim_offsets=False)
    if not ids:
        tokenizer.post_processor = byte_level
        return
    template = processors.TemplateProcessing(single=[*first, "$A", *last], special_tokens=ids)
    tokenizer.post_processor = processors.Sequence([byte_level, template])


def _asked(fields: Mapping[str, Any], roles: Mapping[str, str], end: str, implied: bool) -> bool:
    asked = bool(fields.get(f"add_{end}_token", implied))
    if asked and f"{end}_token" not in roles:
        raise SelfxError(
            f"its tokenizer adds a token at an end of each text, and names no {end} token",
            expected=f"tokenizer.ggml.{end}_token_id",
        )
    return asked
