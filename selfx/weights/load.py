"""A language model, ready to run: weights, config and tokenizer by one name.

`MODEL+ADAPTER` is a model too: the base, and PEFT folders merged into it one after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from transformers import PreTrainedTokenizerBase

from selfx.errors import SelfxError
from selfx.models import quantized
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.sharding import shard
from selfx.weights import adapted
from selfx.weights import tokenizer as tokenizers
from selfx.weights.digest import weights_hash
from selfx.weights.fetch import resolve
from selfx.weights.gguf import gguf_config, gguf_weights, open_gguf
from selfx.weights.peft import read_adapter
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
      path: the file or folder it came from; of an adapted model, the base's.
      hash: SHA-256 of its files, which every record made from it carries.
      eos_ids: tokens at which an answer ends.
      adapters: the PEFT folders merged into it.
      quantize: how its layers' maps were quantised, as `load` takes it; empty if they are floats.
    """

    model: Decoder
    config: Config
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: Path
    hash: str
    eos_ids: tuple[int, ...]
    adapters: tuple[Path, ...] = ()
    quantize: str = ""


def load(
    name: str | Path,
    *,
    dtype: Any = jnp.float32,
    mesh: jax.sharding.Mesh | None = None,
    quantize: str = "",
) -> LanguageModel:
    """The model called `name`, its weights in `dtype`, spread over `mesh` if one is given.

    Args:
      name: a packaged model, a folder, a `.gguf` file, or a hub id such as `org/name`; after it, if
        wanted, `+` and a PEFT folder (a run's, or a hub id) to merge into it, several times if need
        be. A tokenizer that lies beside the adapter takes the place of the base's.
      dtype: of every weight, whatever the files hold.
      mesh: devices to spread the weights over, as `selfx.sharding` makes them.
      quantize: `int8` or `nf4`, to hold the layers' linear maps in as many bits once they are read,
        by `selfx.models.quantized`; the hash ends in it.

    Raises:
      SelfxError: it cannot be found, read, or run as it was trained.
    """
    name = str(name)
    dtype = checked_dtype(dtype)
    if quantize:
        quantized.check_method(quantize)
    base, added = adapted.split_name(name)
    path = resolve(base)
    folders = tuple(adapted.adapter_folder(each) for each in added)
    fingerprint = _meanwhile(lambda: weights_hash(path))
    parts = outline(path)
    model, tokenizer = _with_adapters(parts, folders, dtype, mesh)
    found = fingerprint.result()
    whole = adapted.adapted_hash(found, folders) if folders else found
    ids = _eos_ids(tokenizer, parts.ends)
    if quantize:
        whole = f"{whole}+{quantize}"
        model = quantized.quantize(model, quantize, donate=True)
        model = model if mesh is None else shard(model, mesh)
    return LanguageModel(model, model.config, tokenizer, name, path, whole, ids, folders, quantize)


@dataclasses.dataclass(frozen=True)
class Outline:
    """A model on disk before its weights are read.

    Attributes:
      config, tokenizer: what it is.
      ends: what its files declare as ends of an answer.
      weights: reads them: `(dtype, mesh) -> decoder`.
    """

    config: Config
    tokenizer: PreTrainedTokenizerBase
    ends: list[Any]
    weights: Callable[[Any, jax.sharding.Mesh | None], Decoder]


def outline(path: Path) -> Outline:
    """What a folder or a GGUF file says of its model; its tensors are found to be all there.

    Raises:
      SelfxError: it cannot be read, or run as it was trained.
    """
    return _of_folder(path) if path.is_dir() else _of_gguf(path)


def _with_adapters(
    parts: Outline, folders: tuple[Path, ...], dtype: Any, mesh: jax.sharding.Mesh | None
) -> tuple[Decoder, PreTrainedTokenizerBase]:
    """The decoder with adapters merged in, all of them read before it is, and its tokenizer."""
    adapters = {folder: read_adapter(folder, parts.config) for folder in folders}
    model, tokenizer = parts.weights(dtype, mesh), parts.tokenizer
    for folder in folders:
        model = adapted.merged(model, adapters[folder], mesh)
        tokenizer = _tokenizer_of(folder) or tokenizer
        _fitting(tokenizer, model.config, folder)
    return model, tokenizer


def ends_of(parts: Outline) -> tuple[int, ...]:
    """Every token that ends an answer: declared, the tokenizer's own, or of its chat format."""
    return _eos_ids(parts.tokenizer, parts.ends)


def _of_gguf(path: Path) -> Outline:
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
    weights = functools.partial(gguf_weights, file, config)
    return Outline(config, tokenizer, ends, weights)


def _of_folder(path: Path) -> Outline:
    config = folder_config(path)
    tokenizer, _ = _both(
        lambda: _fitting(tokenizers.from_folder(path), config, path),
        lambda: check_folder(path, config),
    )
    files = [path / "generation_config.json", path / "config.json"]
    ends = [read_object(file).get("eos_token_id") for file in files if file.is_file()]
    return Outline(config, tokenizer, ends, functools.partial(folder_weights, path, config))


def _tokenizer_of(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that lies beside an adapter, whose tokens it may have added; often none."""
    there = (folder / "tokenizer_config.json").is_file()
    return tokenizers.from_folder(folder) if there else None


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
