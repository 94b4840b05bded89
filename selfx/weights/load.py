"""A language model, ready to run: weights, config and tokenizer by one name."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from transformers import PreTrainedTokenizerBase

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.weights import tokenizer as tokenizers
from selfx.weights.digest import weights_hash
from selfx.weights.fetch import resolve
from selfx.weights.gguf import gguf_config, gguf_weights, open_gguf
from selfx.weights.safetensors import check_folder, folder_config, folder_weights, read_object

T = TypeVar("T")
U = TypeVar("U")


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model and what belongs to it.

    Attributes:
      model: the weights.
      config: the architecture.
      tokenizer: text to tokens and back.
      name: what it was loaded by.
      path: the file or folder it came from.
      hash: SHA-256 of its files, which every record made from it carries.
      eos_ids: tokens at which an answer ends.
    """

    model: Decoder
    config: Config
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: Path
    hash: str
    eos_ids: tuple[int, ...]


def load(
    name: str | Path, *, dtype: Any = jnp.float32, mesh: jax.sharding.Mesh | None = None
) -> LanguageModel:
    """The model called `name`, its weights in `dtype`, spread over `mesh` if one is given.

    Args:
      name: a packaged model, a folder, a `.gguf` file, or a hub id such as `org/name`.
      dtype: of every weight, whatever the files hold.
      mesh: devices to spread the weights over, as `selfx.sharding` makes them.

    Raises:
      SelfxError: it cannot be found, read, or run as it was trained.
    """
    name = str(name)
    dtype = checked_dtype(dtype)
    path = resolve(name)
    fingerprint = _meanwhile(lambda: weights_hash(path))
    read = _from_folder if path.is_dir() else _from_gguf
    config, tokenizer, model, ends = read(path, dtype, mesh)
    eos_ids = _eos_ids(tokenizer, ends)
    return LanguageModel(model, config, tokenizer, name, path, fingerprint.result(), eos_ids)


Parts = tuple[Config, PreTrainedTokenizerBase, Decoder, list[Any]]


def _from_gguf(path: Path, dtype: Any, mesh: jax.sharding.Mesh | None) -> Parts:
    file = open_gguf(path)
    config = gguf_config(file)
    try:
        tokenizer = tokenizers.from_gguf(file.fields)
    except SelfxError as error:
        raise SelfxError(
            f"{path}: {error.got}", expected=error.expected, hint=error.hint
        ) from error
    _fitting(tokenizer, config, path)
    ends = [file.fields.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot")]
    return config, tokenizer, gguf_weights(file, config, dtype, mesh), ends


def _from_folder(path: Path, dtype: Any, mesh: jax.sharding.Mesh | None) -> Parts:
    config = folder_config(path)
    tokenizer, _ = _both(
        lambda: _fitting(tokenizers.from_folder(path), config, path),
        lambda: check_folder(path, config),
    )
    files = [path / "generation_config.json", path / "config.json"]
    ends = [read_object(file).get("eos_token_id") for file in files if file.is_file()]
    return config, tokenizer, folder_weights(path, config, dtype, mesh), ends


def checked_dtype(dtype: Any) -> Any:
    """The dtype that is meant, of those that weights may be loaded in.

    Raises:
      SelfxError: it is another, or none.
    """
    error = SelfxError(f"dtype {dtype!r}", expected="float32, bfloat16 or float16")
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise error from None
    if dtype.name not in ("float32", "bfloat16", "float16"):
        raise error
    return dtype


def _meanwhile(work: Callable[[], T]) -> Future[T]:
    """What `work` returns or raises, while the caller goes on; an exit does not wait for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _both(first: Callable[[], T], second: Callable[[], U]) -> tuple[T, U]:
    """What both return; if both fail, one error that tells of both."""
    try:
        one = first()
    except SelfxError as error:
        try:
            second()
        except SelfxError as other:
            raise SelfxError(
                f"{error.got}\n{other.got}",
                expected=f"{error.expected}; {other.expected}",
                hint=f"{error.hint}; {other.hint}",
            ) from other
        raise
    return one, second()


def _fitting(
    tokenizer: PreTrainedTokenizerBase, config: Config, path: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer, if the embedding has a row for each of its tokens."""
    if len(tokenizer) > config.vocab_size:
        raise SelfxError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens",
            expected=f"at most {config.vocab_size}, the rows of the model's embedding",
            hint="check that tokenizer and weights belong together",
        )
    return tokenizer


def _eos_ids(tokenizer: PreTrainedTokenizerBase, declared: Iterable[Any]) -> tuple[int, ...]:
    """Every token that ends an answer: declared, the tokenizer's own, or of its chat format."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    ids = [tokenizer.eos_token_id, *(vocabulary.get(token) for token in tokenizers.TURN_ENDS)]
    for each in declared:
        ids += each if isinstance(each, list) else [each]
    return tuple(sorted({index for index in ids if isinstance(index, int)}))
