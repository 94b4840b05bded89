"""Another model's vectors at the same places: what a reader of the target alone should not need.

A causal model's state at a token depends on the text up to there and on nothing after, so that the
other model is run on that much, in tokens of its own where its tokenizer differs, and read at the
last of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from selfx.errors import SelfxError
from selfx.evaluation.controls import with_vectors
from selfx.explainer.projection.drawn import DRAWS
from selfx.explainer.projection.files import load_projection, same_depth
from selfx.tasks.example import Example
from selfx.tasks.reading_model import read_places
from selfx.tasks.schema import ABLATION, PATCHING, READING
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a vector, or a part of one, was taken.

    Attributes:
      ids: the target's tokens up to there.
      weight: what is made of it is multiplied by that.
    """

    ids: tuple[int, ...]
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Other:
    """Another model in the target's stead.

    Attributes:
      model: it.
      tokenizer: the target's.
      layers: the target's.
      matrices: float32 `[l, d, d]` from each of its layers to the target's width; None where it is
        as wide and goes as it is.
    """

    model: LanguageModel
    tokenizer: Any
    layers: int
    matrices: np.ndarray | None

    def __call__(self, examples: Sequence[Example], *, batch_size: int = 32) -> list[Example]:
        """The examples with its vectors in place of the target's.

        Raises:
          SelfxError: vectors that were not taken from a text on record.
        """
        places = [places_of(example) for example in examples]
        site = str(examples[0].details.get("site") or "resid_post")
        texts = [self._tokens(place.ids) for several in places for place in several]
        states = iter(self._states(texts, site, batch_size))
        vectors = [
            sum(place.weight * next(states) for place in several)[list(_layers(example))]
            for example, several in zip(examples, places, strict=True)
        ]
        mean = examples[0].task == PATCHING
        whole = [each.mean(axis=0, keepdims=True) if mean else each for each in vectors]
        most = max(map(len, whole))
        filled = [np.pad(each, ((0, most - len(each)), (0, 0))) for each in whole]
        return with_vectors(examples, np.stack(filled).astype(np.float32))

    def _tokens(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The same text in its own tokens."""
        own = self.model.tokenizer
        if own.get_vocab() == self.tokenizer.get_vocab():
            return ids
        text = str(self.tokenizer.decode(list(ids)))
        return tuple(own(text, add_special_tokens=False)["input_ids"])

    def _states(self, texts: Sequence[tuple[int, ...]], site: str, size: int) -> np.ndarray:
        """float32 `[n, l, d]` at the last token of each text, for all layers of the target."""
        layers = same_depth(self.layers, self.model.config.n_layers)
        read = tuple(sorted(set(layers)))
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        ends = np.array([[len(texts[row]) - 1] for row in order])
        some = [texts[row] for row in order]
        seen, _ = read_places(self.model.model, some, ends, site=site, layers=read, batch_size=size)
        states = seen[np.argsort(order), 0]
        if self.matrices is not None:
            states = np.einsum("nld,lde->nle", states, self.matrices[list(read)])
        return states[:, [read.index(layer) for layer in layers]]


def other_model(
    model: LanguageModel,
    home: LanguageModel,
    trace: dict[str, Any],
    *,
    layers: int,
    width: int,
    projection: str = "",
    seed: int = 0,
) -> Other:
    """Another model as a giver of vectors.

    Args:
      model: it.
      home: the explainer's model, whose tokenizer is the target's.
      trace: the record of what is asked.
      layers, width: the target's.
      projection: the folder of one fitted from `model` to the target; "" draws one at random where
        widths differ, and takes vectors as they are where not.
      seed: of the draw.

    Raises:
      SelfxError: the trace is of neither model, or the projection is of others.
    """
    made = trace.get("target_hash")
    if made not in (home.hash, model.hash):
        raise SelfxError(
            f"vectors of {model.name} for a trace of {trace.get('target')}",
            expected=f"a trace of {home.name}, whose tokens are known here",
        )
    tokenizer = home.tokenizer if made == home.hash else model.tokenizer
    own = model.config
    matrices = None
    if projection:
        matrices = load_projection(projection, model.hash, made).matrices
    elif own.d_model != width:
        key = jax.random.key(seed)
        matrices = np.asarray(DRAWS["random"](own.n_layers, own.d_model, width, key))
    return Other(model, tokenizer, layers, matrices)


def places_of(example: Example) -> list[Place]:
    """Where an example's vectors were taken; several where they are mixed.

    Raises:
      SelfxError: nobody knows.
    """
    row = example.details
    if example.task == READING and row.get("input_ids") is not None:
        return [_place(row["input_ids"], row["position"])]
    if example.task == ABLATION and row.get("input_ids") is not None:
        return [_place(row["input_ids"], len(row["input_ids"]) - 1)]
    if example.task == PATCHING and row.get("parts"):
        return [_place(p["ids"], p["position"], p["weight"]) for p in row["parts"]]
    if example.task == PATCHING and row.get("source_ids"):
        return [_place(row["source_ids"], row["patch_position"]["counterfact_pos"])]
    raise SelfxError(
        f"another model's vector for example {example.id} of {example.task}",
        expected="vectors that were taken from a text on record",
        hint="leave --other-vectors out",
    )


def _place(ids: Sequence[int], position: int, weight: float = 1.0) -> Place:
    return Place(tuple(ids[: position + 1]), weight)


def _layers(example: Example) -> tuple[int, ...]:
    """The target's layers that an example's vectors are of; a patch is the mean over all it
    writes to."""
    if example.task == PATCHING:
        return tuple(map(int, example.details["layer"]))
    return example.layers
