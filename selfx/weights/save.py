"""A decoder written as a Hugging Face folder: `selfx.weights.layout` read backwards."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from selfx.errors import SelfxError
from selfx.files import atomic, unwritable, write_json
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import parameter_path
from selfx.models.quantized import is_quantized
from selfx.models.stack import Apart
from selfx.models.zoo import config_from_hf
from selfx.weights.hf_config import config_to_hf
from selfx.weights.layout import Place, expected_tensors, places
from selfx.weights.load import LanguageModel
from selfx.weights.safetensors import read_object
from selfx.weights.tables import Fused

SHARD_BYTES = 5_000_000_000
"""The most that one file of weights holds, one tensor at least; transformers' own number."""

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save_model(
    model: Decoder | LanguageModel,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """The folder, made: `config.json`, safetensors in the weights' own dtype, and a tokenizer.

    `selfx.load` reads the same weights back to the bit, and transformers the same model. It appears
    whole or not at all; on the way, the host holds one tensor.

    Args:
      model: the weights. Of a `LanguageModel` the tokenizer is written too, and what ends an
        answer; the `config.json` of the folder that it came from is kept if it still describes it.
      folder: a new or an empty one.
      tokenizer: to write, instead of the model's own if it has one.
      shard_bytes: the most that one file of weights holds.

    Raises:
      SelfxError: a quantised model or one with its layers apart, an architecture that no file of
        its family can declare, a folder that holds something, a full disk.
    """
    folder = Path(folder)
    lm = model if isinstance(model, LanguageModel) else None
    decoder = model.model if isinstance(model, LanguageModel) else model
    weights = _weights(decoder)
    declared = {**_declared(decoder.config, lm), "dtype": decoder.embed[...].dtype.name}
    tokenizer = lm.tokenizer if tokenizer is None and lm is not None else tokenizer
    with _appearing(folder) as scratch:
        _write_shards(scratch, decoder.config, weights, shard_bytes)
        if lm is not None:
            write_json(scratch / "generation_config.json", _generation(lm))
        if tokenizer is not None:
            _write_tokenizer(tokenizer, scratch)
        write_json(scratch / "config.json", declared)
    return folder


Weights = Mapping[str, jax.Array]


def _weights(model: Decoder) -> Weights:
    """`{path: array}` of a model that files can hold."""
    if is_quantized(model) or isinstance(model.blocks, Apart):
        raise SelfxError(
            "a model that is quantised, or whose layers are apart",
            expected="one in floats, as it is loaded",
            hint="save the model that it was made from",
        )
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {parameter_path(path): leaf for path, leaf in leaves}


def _declared(config: Config, lm: LanguageModel | None) -> dict[str, Any]:
    """The file that a model came with where it tells the truth of it still, else a new one."""
    file = None if lm is None else lm.path / "config.json"
    if file is not None and file.is_file():
        source = read_object(file)
        source.pop("torch_dtype", None)  # the older name of dtype
        if source.get("model_type") == config.family and config_from_hf(source) == config:
            return source
    ends = {} if lm is None else {"eos_token_id": list(lm.eos_ids)}
    return {**config_to_hf(config), **ends}


def _generation(lm: LanguageModel) -> dict[str, Any]:
    """What the model came with about generation, and every token that ends an answer."""
    file = lm.path / "generation_config.json"
    source = read_object(file) if file.is_file() else {}
    return {**source, "eos_token_id": list(lm.eos_ids)}


def _write_shards(folder: Path, config: Config, weights: Weights, shard_bytes: int) -> None:
    """The files of weights, layer after layer, and an index where there are several."""
    goals, shapes = places(config, "hf"), expected_tensors(config, "hf")
    names = sorted(goals, key=lambda name: goals[name][0].index)
    sizes = {
        name: int(np.prod(shapes[name])) * weights[goals[name][0].path].dtype.itemsize
        for name in names
    }
    shards = _shared_out(names, sizes, shard_bytes)
    files = {
        "model.safetensors"
        if len(shards) == 1
        else f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }
    for file, shard in files.items():
        heads = {name: _head(weights[goals[name][0].path], shapes[name]) for name in shard}
        tensors = (_file_order(goals[name], weights, config) for name in shard)
        with atomic(folder / file) as temporary:
            _write_safetensors(temporary, heads, sizes, tensors)
    if len(files) > 1:
        lies_in = {name: file for file, shard in files.items() for name in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": lies_in}
        write_json(folder / "model.safetensors.index.json", index)


def _shared_out(names: Sequence[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The names in runs whose sizes stay within the limit, a larger one alone."""
    shards: list[list[str]] = [[]]
    room = limit
    for name in names:
        if sizes[name] > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= sizes[name]
    return shards


def _head(weight: jax.Array, shape: tuple[int, ...]) -> dict[str, Any]:
    dtype = weight.dtype.name
    if dtype not in _DTYPES:
        raise SelfxError(f"weights in {dtype}", expected=f"one of {', '.join(_DTYPES)}")
    return {"dtype": _DTYPES[dtype], "shape": list(shape)}


def _write_safetensors(
    path: Path,
    heads: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, int],
    tensors: Iterator[np.ndarray],
) -> None:
    """A safetensors file: the header's length, the header, the tensors' bytes in its order.

    The library's own writer wants all tensors of a file at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, head in heads.items():
        stop = start + sizes[name]
        header[name] = {**head, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors:
            file.write(tensor.reshape(-1).view(np.uint8).data)


def _file_order(parts: Sequence[Place], weights: Weights, config: Config) -> np.ndarray:
    """A tensor as files have it, from the weights that lie in it."""
    row = parts[0].row
    each = {place.row.part: np.asarray(weights[place.path][place.index]) for place in parts}
    tensor = each[""] if row.fused is None else fuse(each, row.fused, config)
    return np.ascontiguousarray(tensor.T if row.transposed else tensor)


def fuse(each: Mapping[str, np.ndarray], how: Fused, config: Config) -> np.ndarray:
    """One tensor of several maps `[..., out]`, from which `layout.cut` takes them again."""
    maps = [each[name] for name in how.maps]
    if not how.by_head:
        return np.concatenate(maps, axis=-1)
    lead = maps[0].shape[:-1]
    heads = [one.reshape(*lead, config.n_heads, config.d_head) for one in maps]
    return np.stack(heads, axis=-2).reshape(*lead, -1)


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(str(folder))
    except OSError:
        raise
    except Exception as error:  # the library's own, of no class in particular
        raise SelfxError(
            f"the tokenizer cannot be written: {error}", hint="free some space, if that is why"
        ) from error


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends without an error."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SelfxError(f"{folder} is there already", expected="a new or an empty folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            scratch = Path(name) / "whole"
            scratch.mkdir()
            yield scratch
            os.replace(scratch, folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    except SelfxError as error:
        if isinstance(error.__cause__, OSError):  # of a file in a folder that is gone
            raise unwritable(folder, error.__cause__) from error
        raise
