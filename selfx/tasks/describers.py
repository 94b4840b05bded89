"""Who puts the truth of a feature in words, named in one setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from selfx.errors import SelfxError
from selfx.features.descriptions.asked import ChatDescriber
from selfx.features.descriptions.chat import Endpoint, LocalChat
from selfx.features.descriptions.describe import Description, describe
from selfx.features.descriptions.neuronpedia import load_neuronpedia
from selfx.features.exemplars.excerpts import Evidence
from selfx.weights.load import load

Describers = Callable[[Sequence[Evidence]], list[Description | None]]
"""Descriptions of several features; None where there is none."""

BUILT_IN = "built-in"
FORMS = (BUILT_IN, "MODEL@http://…/v1", "local:MODEL", "neuronpedia:FOLDER")


def describers(name: str, cache: Path) -> Describers:
    """Who is meant.

    Args:
      name: `built-in`; a chat model and its OpenAI-compatible endpoint, `MODEL@URL`; `local:MODEL`,
        a chat model that runs here; `neuronpedia:FOLDER`, an export whose descriptions are taken.
      cache: where an endpoint's answers are kept.

    Raises:
      SelfxError: none of these, or it cannot be loaded.
    """
    kind, _, rest = name.partition(":")
    if name == BUILT_IN:
        return lambda evidence: [describe(each) for each in evidence]
    if kind == "local" and rest:
        return _listed(ChatDescriber(LocalChat(load(rest))))
    if kind == "neuronpedia" and rest:
        return _published(Path(rest))
    model, _, url = name.partition("@")
    if model and url.startswith(("http://", "https://")):
        return _listed(ChatDescriber(Endpoint(url, model, cache)))
    raise SelfxError(f"describer {name!r}", expected=f"one of {', '.join(FORMS)}")


def _listed(describer: ChatDescriber) -> Describers:
    def many(evidence: Sequence[Evidence]) -> list[Description | None]:
        return [each if each.text else None for each in describer.many(evidence)]

    return many


def _published(folder: Path) -> Describers:
    known = {one.index: one.descriptions for one in load_neuronpedia(folder)}

    def many(evidence: Sequence[Evidence]) -> list[Description | None]:
        return [next(iter(known.get(each.feature, ())), None) for each in evidence]

    return many
