"""Models that are adapted before anything else is done with them: `MODEL+ADAPTER`.

The adapter is merged into the base, so that the model runs, is hashed and is named like any other.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.lora import Lora, corrected
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_path
from selfx.sharding import make_room
from selfx.weights.digest import file_hash
from selfx.weights.hub import from_hub, is_hub_id
from selfx.weights.layout import Place, cut, places
from selfx.weights.peft import PeftAdapter
from selfx.weights.peft.contents import WEIGHTS
from selfx.weights.peft.names import heads_of
from selfx.weights.peft.read import CONFIG

_HUB_FILES = (CONFIG, WEIGHTS, "tokenizer*", "special_tokens_map.json", "chat_template*")


def split_name(name: str) -> tuple[str, list[str]]:
    """The base's name and those of the adapters that follow it, from `MODEL+ADAPTER+ADAPTER`.

    Each is as long as something on disk is called so, else it ends at the next `+`.
    """
    parts, found = name.split("+"), []
    while parts:
        lengths = range(len(parts), 0, -1)
        there = (n for n in lengths if n == 1 or Path("+".join(parts[:n])).expanduser().exists())
        length = next(there)
        found.append("+".join(parts[:length]))
        parts = parts[length:]
    return found[0], found[1:]


def adapter_folder(name: str) -> Path:
    """The PEFT folder of an adapter: a folder, a run's folder that has one, or a hub id.

    Raises:
      SelfxError: there is none.
    """
    path = Path(name).expanduser()
    if name and not path.exists() and is_hub_id(name):
        path = from_hub(name, _HUB_FILES)
    for folder in (path, path / "adapter"):
        if name and (folder / CONFIG).is_file():
            return folder
    raise SelfxError(
        f"no adapter in {name!r}",
        expected=f"MODEL+ADAPTER, the adapter a folder that holds {CONFIG}, or a finished run's",
        hint="check the path; several adapters are given as MODEL+FIRST+SECOND",
    )


def adapted_hash(base: str, folders: Iterable[Path]) -> str:
    """SHA-256, in hex, of a base's own hash and the files of the adapters, in their order."""
    whole = hashlib.sha256(base.encode())
    for folder in folders:
        for file in (CONFIG, WEIGHTS):
            whole.update(f"\n{file}\0{file_hash(folder / file)}".encode())
    return whole.hexdigest()


def merged(model: Decoder, adapter: PeftAdapter, mesh: jax.sharding.Mesh | None = None) -> Decoder:
    """The decoder with an adapter merged into it; the memory of what it changes is reused.

    Its config follows: a saved embedding brings its vocabulary, and may part with the head.

    Raises:
      SelfxError: embedding and head would have different numbers of rows, or too few.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    weights = {parameter_path(path): leaf for path, leaf in leaves}
    dtype = weights["embed"].dtype
    for name, each in adapter.matrices.items():
        path = f"blocks.{name}.w"
        lora = Lora(jnp.asarray(each.a), jnp.asarray(each.b), each.scale)
        weights[path] = _into(weights[path], lora)
    heads = heads_of(model.config)
    goals = places(model.config, "hf")
    for name, tensor in adapter.saved.items():
        for place in goals[name] if name not in heads else ():
            weights[place.path] = _replaced(weights[place.path], tensor, place, model.config)
    found = _heads(model.config, adapter, weights)
    for path, array in found.items():
        room = make_room(path, jax.ShapeDtypeStruct(array.shape, dtype), mesh)
        room.write(array, ())
        weights[path] = room.done()
    rows = weights["embed"].shape[0]
    tied = model.config.tied and "unembed.w" not in weights
    config = dataclasses.replace(model.config, vocab_size=rows, tied=tied)
    return from_parameters(config, weights, dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _add(weight: jax.Array, lora: Lora) -> jax.Array:
    return corrected(weight, lora)


def _into(weight: jax.Array, lora: Lora) -> jax.Array:
    """The weight with the product added, spread as it was."""
    sharding = weight.sharding
    return jax.device_put(_add(weight, lora), sharding)


def _replaced(weight: jax.Array, tensor: np.ndarray, place: Place, config: Config) -> jax.Array:
    """The stacked weight with one layer's part replaced by a file's tensor, or by a part of it."""
    part = tensor.T if place.row.transposed else tensor
    if place.row.fused is not None:
        part = cut(part, place.row.fused, place.row.part, config)
    new = weight.at[place.index].set(jnp.asarray(part, weight.dtype))
    return jax.device_put(new, weight.sharding)


def _heads(
    config: Config, adapter: PeftAdapter, weights: Mapping[str, jax.Array]
) -> dict[str, np.ndarray]:
    """`{path: array}` of the embedding and the unembedding, as far as the adapter changes them.

    A tied head stays so if both are saved alike, or if one is saved that PEFT had not copied.
    """
    names = heads_of(config)
    embed, unembed = (adapter.saved.get(name) for name in names)
    if config.tied and embed is not None and unembed is not None:
        unembed = None if np.array_equal(embed, unembed) else unembed
    elif config.tied and (embed is not None or unembed is not None):
        if any(name.removesuffix(".weight").endswith(adapter.copied) for name in names):
            old = np.asarray(weights["embed"], np.float32)
            embed, unembed = (old if each is None else each for each in (embed, unembed))
        else:
            embed, unembed = unembed if embed is None else embed, None
    found = {"embed": embed, "unembed.w": None if unembed is None else unembed.T}
    changed = {path: array for path, array in found.items() if array is not None}
    for name, (rows, values) in adapter.rows.items():
        path = "embed" if config.tied or name == names[0] else "unembed.w"
        array = changed.get(path, weights[path])
        array = np.array(array if path == "embed" else array.T, np.float32)
        _check_rows(rows, array)
        array[list(rows)] = values
        changed[path] = array if path == "embed" else array.T
    _check_heads({**weights, **changed})
    return changed


def _check_rows(rows: tuple[int, ...], array: np.ndarray) -> None:
    if rows and not 0 <= min(rows) <= max(rows) < len(array):
        raise SelfxError(
            f"an adapter with new values for tokens {min(rows)} to {max(rows)}",
            expected=f"tokens below {len(array)}, the rows of the model's embedding",
        )


def _check_heads(weights: Mapping[str, Any]) -> None:
    """Raises SelfxError where embedding and unembedding are not of one vocabulary."""
    rows = weights["embed"].shape[0]
    columns = weights["unembed.w"].shape[1] if "unembed.w" in weights else rows
    if rows != columns:
        raise SelfxError(
            f"an embedding of {rows} tokens, and a head of {columns}, with the adapter",
            expected="as many: an adapter for more tokens saves both",
        )
