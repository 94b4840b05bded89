"""Who judges descriptions: a simulator of activations, and an embedder of wordings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.evaluation.asked import adapter_digest
from selfx.explainer.answer import load_explainer
from selfx.explainer.run import Run
from selfx.features.descriptions.statements import parse
from selfx.features.descriptions.words import reading
from selfx.features.exemplars.excerpts import Evidence, Pieces
from selfx.features.scores.minilm import PACKAGE, load_minilm
from selfx.features.scores.similarity import Embedder, Tfidf
from selfx.features.scores.simulate import (
    ModelSimulator,
    Predictions,
    Simulator,
    Texts,
    check_pairs,
)
from selfx.weights.load import LanguageModel, load

BUILT_IN = "built-in"


@dataclasses.dataclass(frozen=True)
class Judges:
    """What descriptions are scored with.

    Attributes:
      simulator: predicts activations from a description.
      embedder: puts wordings where alike ones are near.
      about: who they are, for the record; it changes with all that their judgement depends on.
    """

    simulator: Simulator
    embedder: Embedder
    about: dict[str, Any]


def load_judges(simulator: str, descriptions: Sequence[str], texts: Iterable[Evidence]) -> Judges:
    """The simulator named, and the best embedder that is here.

    Args:
      simulator: a model or run folder to ask; "" for the one that needs no model.
      descriptions: those of the train split, which say how rare a word is among descriptions.
      texts: what will be simulated; the model's tokenizer must have cut them.

    Raises:
      SelfxError: no such model, or one that cuts texts otherwise.
    """
    ask, who = _simulator(simulator, texts) if simulator else (simulate, {"name": BUILT_IN})
    embedder, how = load_embedder(descriptions)
    return Judges(ask, embedder, {"simulator": who, "similarity": how})


def simulate(descriptions: Sequence[str], texts: Sequence[Texts]) -> Predictions:
    """What `selfx.features.scores.simulate.simulate` says, each text looked at only once."""
    check_pairs(descriptions, texts)
    look = functools.cache(reading)
    return [
        [statement.predict(look(excerpt.pieces)) for excerpt in some]
        for statement, some in zip(map(parse, descriptions), texts, strict=True)
    ]


def _simulator(name: str, texts: Iterable[Evidence]) -> tuple[Simulator, dict[str, Any]]:
    lm, who = model_or_run(name)
    pieces = Pieces(lm.tokenizer)
    for evidence in texts:
        for excerpt in evidence.excerpts[:1]:
            if excerpt.ids is not None and pieces(excerpt.ids) != excerpt.pieces:
                raise SelfxError(
                    f"simulator {name}, whose tokens are not those of the texts",
                    expected="one with the target's tokenizer",
                    hint="leave --simulator out to use the one that needs no model",
                )
    return ModelSimulator(lm), who


def model_or_run(name: str) -> tuple[LanguageModel, dict[str, Any]]:
    """A model, or a run's with what it was trained to merged in; and which it is.

    Raises:
      SelfxError: no such model, or adapters that cannot be merged.
    """
    if not Run(Path(name)).exists():
        lm = load(name)
        return lm, {"name": lm.name, "hash": lm.hash}
    trained = load_explainer(name)
    if trained.lora is not None:
        raise SelfxError(f"{name}, adapters of a quantised model", expected="one of whole floats")
    lm = dataclasses.replace(trained.base, model=trained.model)
    return lm, {"name": name, "hash": lm.hash, "adapter": adapter_digest(trained)}


def load_embedder(descriptions: Sequence[str]) -> tuple[Embedder, dict[str, Any]]:
    """The best embedder that is here, of descriptions such as these; and which it is."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return load_minilm(), {"embedder": "all-MiniLM-L6-v2"}
    counted = hashlib.sha256("\n".join(sorted(descriptions)).encode("utf-8", "replace"))
    how = {"embedder": "tf-idf", "over": len(descriptions), "digest": counted.hexdigest()[:16]}
    return Tfidf.of(descriptions), how
