"""A trace of feature descriptions as Neuronpedia's export: each dictionary is a source."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.features.descriptions.describe import Description
from selfx.features.descriptions.neuronpedia import Published, save_neuronpedia
from selfx.features.dictionaries.places import hook_of
from selfx.tasks.evidence import load_evidence
from selfx.tasks.example import Example
from selfx.tasks.schema import FEATURES
from selfx.tasks.store import SPLITS, load_examples, load_trace


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Where features are from: numbers mean something in a place alone."""

    layer: int
    site: str
    dictionary: str

    def source(self, name: str) -> str:
        """Its id, `LAYER-NAME` or `LAYER-NAME-DICTIONARY`, the layer said once."""
        own = re.sub(rf"-?layer{self.layer}(?!\d)-?", "", self.dictionary)
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{name}-{own}").strip("-.")
        return f"{self.layer}-{plain}"

    @property
    def hook(self) -> str:
        """The site in TransformerLens's words, or "" if it has none."""
        try:
            return hook_of(self.site, self.layer)
        except SelfxError:
            return ""


def export_trace(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    name: str = "selfx",
    splits: Sequence[str] = SPLITS,
) -> dict[str, Any]:
    """What was written: `out`, the `sources`' folders, and how many `features`.

    Args:
      folder: a trace of feature descriptions.
      out: where `v1` is to be.
      model: the target's id at Neuronpedia; None takes the last part of its name.
      name: of the set.
      splits: whose examples.

    Raises:
      SelfxError: no such trace, two places that would share a folder, or a folder that cannot be
        written.
    """
    record = load_trace(folder)
    if record["task"] != FEATURES:
        raise SelfxError(f"{folder} holds {record['task']}", expected=f"a trace of {FEATURES}")
    model = model or Path(record.get("target") or "").name
    if not model:
        raise SelfxError(f"{folder} does not name its target", expected="--model ID")
    places: dict[Place, dict[int, Published]] = {}
    for example, one in _features(folder, splits):
        known = places.setdefault(_place(example), {})
        known[one.index] = _joined(known.get(one.index), one)
    dataset = Path(record.get("texts") or "").name
    written = [
        save_neuronpedia(
            [found[index] for index in sorted(found)],
            out,
            model=model,
            source=source,
            hook=place.hook,
            dataset=dataset,
        )
        for source, (place, found) in _named(places, name).items()
    ]
    count = sum(map(len, places.values()))
    return {"out": str(out), "sources": [str(path) for path in written], "features": count}


def _features(folder: str | Path, splits: Sequence[str]) -> Iterator[tuple[Example, Published]]:
    for split in splits:
        examples = load_examples(folder, split)
        evidence = load_evidence(folder, split, [example.id for example in examples])
        for example, texts in zip(examples, evidence, strict=True):
            about = example.details
            said = Description(example.answer, about.get("describer") or "selfx")
            peak = float(about.get("peak") or 0.0)
            yield example, Published(texts.feature, texts, (said,), example.vector, peak)


def _place(example: Example) -> Place:
    about = example.details
    return Place(int(about["layer"]), about.get("site") or "", about.get("dictionary") or "")


def _joined(known: Published | None, one: Published) -> Published:
    """A feature with every description that any of its examples has."""
    if known is None:
        return one
    said = tuple(dict.fromkeys(known.descriptions + one.descriptions))
    return dataclasses.replace(known, descriptions=said)


def _named(
    places: dict[Place, dict[int, Published]], name: str
) -> dict[str, tuple[Place, dict[int, Published]]]:
    named: dict[str, tuple[Place, dict[int, Published]]] = {}
    for place in sorted(places):
        source = place.source(name)
        if source in named:
            raise SelfxError(
                f"{place.dictionary!r} and {named[source][0].dictionary!r} are both {source!r}",
                expected="dictionaries with names of their own",
            )
        named[source] = place, places[place]
    return named
