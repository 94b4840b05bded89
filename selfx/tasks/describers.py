"""Who puts the truth of a feature in words, named in one setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from selfx.errors import SelfxError
from selfx.features.descriptions.archive import read_labels
from selfx.features.descriptions.asked import ChatDescriber
from selfx.features.descriptions.chat import Endpoint, LocalChat
from selfx.features.descriptions.describe import Description, describe
from selfx.features.descriptions.neuronpedia import load_neuronpedia
from selfx.features.exemplars.excerpts import Evidence
from selfx.weights.load import load

Asked = Sequence[tuple[int, Evidence]]
"""Features, each with the layer that it is of."""

Describers = Callable[[Asked], list[Description | None]]
"""Descriptions of several features; None where there is none."""

BUILT_IN = "built-in"
FORMS = (BUILT_IN, "MODEL@http://…/v1", "local:MODEL", "neuronpedia:FOLDER", "archive:FOLDER")


def describers(name: str, cache: Path) -> Describers:
    """Who is meant.

    Args:
      name: `built-in`; a chat model and its OpenAI-compatible endpoint, `MODEL@URL`; `local:MODEL`,
        a chat model that runs here; `neuronpedia:FOLDER`, an export, of one source or with a
        folder `LAYER-…` for each; `archive:FOLDER`, the paper's own, unpacked.
      cache: where an endpoint's answers are kept.

    Raises:
      SelfxError: none of these, or it cannot be loaded.
    """
    kind, _, rest = name.partition(":")
    if name == BUILT_IN:
        return lambda asked: [describe(evidence) for _, evidence in asked]
    if kind == "local" and rest:
        return _chatting(ChatDescriber(LocalChat(load(rest))))
    if kind == "neuronpedia" and rest:
        return _published(_exported(Path(rest)))
    if kind == "archive" and rest:
        return _published(_archived(Path(rest)))
    model, _, url = name.partition("@")
    if model and url.startswith(("http://", "https://")):
        return _chatting(ChatDescriber(Endpoint(url, model, cache)))
    raise SelfxError(f"describer {name!r}", expected=f"one of {', '.join(FORMS)}")


def _chatting(describer: ChatDescriber) -> Describers:
    def many(asked: Asked) -> list[Description | None]:
        said = describer.many([evidence for _, evidence in asked])
        return [each if each.text else None for each in said]

    return many


def _published(known: Mapping[tuple[int, int], Description]) -> Describers:
    return lambda asked: [known.get((layer, evidence.feature)) for layer, evidence in asked]


def _exported(folder: Path) -> dict[tuple[int, int], Description]:
    """The first description of each (layer, feature) of a Neuronpedia export."""
    sources = [folder] if (folder / "explanations").is_dir() else sorted(folder.glob("*-*"))
    found = {}
    for source in sources:
        layer = source.name.split("-")[0]
        if not layer.isdecimal():
            raise SelfxError(
                f"the source {source.name!r}", expected="a folder named LAYER-SET, such as 12-res"
            )
        for one in load_neuronpedia(source):
            if one.descriptions:
                found[int(layer), one.index] = one.descriptions[0]
    if not found:
        raise SelfxError(f"no descriptions in {folder}", expected="a Neuronpedia export")
    return found


def _archived(folder: Path) -> dict[tuple[int, int], Description]:
    """The chosen description of each (layer, feature) of the published archive, all splits."""
    files = sorted((folder / "explanations").glob("*_explanations.pkl"))
    if not files:
        raise SelfxError(
            f"no explanations in {folder}", expected="the unpacked archive: explanations/*.pkl"
        )
    splits = (file.name.removesuffix("_explanations.pkl") for file in files)
    return {
        (one.layer, one.index): one.descriptions[0]
        for split in splits
        for one in read_labels(folder, split)
    }
