"""Feature description, now: what a feature, a saved vector or a residual is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx import data as own
from selfx.errors import SelfxError
from selfx.features.descriptions.describe import describe
from selfx.features.exemplars.corpus import Corpus, start_token, windows
from selfx.features.exemplars.directions import Reader, along, of_sae
from selfx.features.exemplars.excerpts import Excerpt, Pieces, evidence_of, halves
from selfx.features.exemplars.mine import Search, mine
from selfx.features.exemplars.texts import read_texts
from selfx.tasks.directions import residuals
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Asked, Desk, Place, Truth
from selfx.tasks.now.inputs import Feature, read_feature, read_vector
from selfx.tasks.now.of_reading import text_and_place
from selfx.tasks.now.request import Request
from selfx.tasks.published import feature_cell
from selfx.tasks.schema import FEATURES
from selfx.tasks.split import short_hash
from selfx.tasks.wording import openings_for_feature, questions_for_feature
from selfx.weights.load import LanguageModel

CONTEXT = 64
WINDOWS = 128
"""How much text the truth is measured on: windows of `CONTEXT` tokens."""
EXEMPLARS = 20
CENTRE = 32
"""Windows at whose ends the mean residual is taken."""
SHOWN = 5
AROUND = 3
"""Peaks that are told of, and the tokens around each."""


@dataclasses.dataclass(frozen=True)
class Direction:
    """A vector `[1, d]` of a layer; a residual is read from the mean on, its own included."""

    vector: np.ndarray
    layer: int
    residual: bool = False


def places(request: Request, desk: Desk) -> list[Place]:
    """The place in the text, if it is about one."""
    for layers in request.groups:
        desk.check_layers(layers)
        if len(layers) > 1:
            raise SelfxError(
                f"a description of layers {', '.join(map(str, layers))} together",
                expected="one layer for each, by --layer",
            )
    if not request.text:
        return []
    tokens, position = text_and_place(request, desk)
    return [(tokens.ids, position)]


def questions(request: Request, desk: Desk) -> list[Asked]:
    """A question for the feature, or for the vector at each layer."""
    if request.feature:
        feature = read_feature(request.feature, desk)
        about: dict[str, Any] = {"feature": request.feature, "layer": feature.sae.layer}
        return [Asked(_example(feature.vector, feature.sae.layer), about, feature)]
    layers = [layer for (layer,) in request.groups]
    if request.vector:
        vector = read_vector(request.vector, desk.width)
        about = {"vector": request.vector}
        held = [Direction(vector, layer) for layer in layers]
    else:
        tokens, position = text_and_place(request, desk)
        states = desk.seen[tokens.ids, position].states
        about = {"text": tokens.text, "position": position, "token": tokens.piece(position)}
        held = [Direction(states[[layer]], layer, residual=True) for layer in layers]
    return [
        Asked(_example(each.vector, each.layer), {**about, "layer": each.layer}, each)
        for each in held
    ]


def truths(asked: Sequence[Asked], desk: Desk) -> list[Truth]:
    """What excites each on running text: half of it put in words, half of it to score on."""
    corpus = _corpus(desk.target)
    return [_truth(each.experiment, corpus, desk) for each in asked]


def _truth(what: Feature | Direction, corpus: Corpus, desk: Desk) -> Truth:
    target = desk.target
    reader = _reader(what, corpus, target)
    search = Search(EXEMPLARS, EXEMPLARS, EXEMPLARS)
    found = mine(target, reader, corpus, search=search, report=desk.report)
    evidence = evidence_of(found, 0, Pieces(target.tokenizer))
    facts: dict[str, Any] = {
        "tokens": found.tokens,
        "frequency": found.frequency(0),
        "peak": found.peak(0),
    }
    if not found.active[0]:
        return Truth(facts=facts, note=f"it is never on in {found.tokens} tokens")
    shown, scored = halves(evidence)
    facts["peaks"] = [_peak(text) for text in evidence.of("top")[:SHOWN]]
    return Truth(describe(shown).text, facts=facts, evidence=scored)


def _peak(text: Excerpt) -> str:
    """The token where it is on most, marked, between its neighbours."""
    at = int(text.activations.argmax())
    before, after = text.pieces[max(at - AROUND, 0) : at], text.pieces[at + 1 : at + 1 + AROUND]
    return f"{''.join(before)}[[{text.pieces[at]}]]{''.join(after)}"


def _reader(what: Feature | Direction, corpus: Corpus, target: LanguageModel) -> Reader:
    """How strongly a text excites it."""
    if isinstance(what, Feature):
        return of_sae(what.sae, [what.index])
    some = _spread(len(corpus), CENTRE)
    rows = [corpus.tokens[row, : corpus.lengths[row]].tolist() for row in some]
    mean = residuals(target, rows, [what.layer])[0].mean(axis=0)
    vector = what.vector - mean if what.residual else what.vector
    return along(vector, layer=what.layer, centre=mean)


def _corpus(target: LanguageModel) -> Corpus:
    """Windows spread evenly over the text that comes with selfx."""
    tokenizer = target.tokenizer
    context = min(CONTEXT, target.config.max_positions)
    texts = read_texts(own.text_path())
    corpus = windows(tokenizer, texts, context=context, bos=start_token(tokenizer))
    rows = _spread(len(corpus), WINDOWS)
    fields = ("tokens", "lengths", "document", "start")
    return dataclasses.replace(corpus, **{name: getattr(corpus, name)[rows] for name in fields})


def _spread(count: int, most: int) -> np.ndarray:
    """int `[n]`: at most so many of `count` numbers, as far apart as can be."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _example(vector: np.ndarray, layer: int) -> Example:
    return Example(
        id=short_hash(FEATURES, layer, vector.tobytes()),
        task=FEATURES,
        split="now",
        group="",
        cell=feature_cell(layer),
        system="",
        questions=questions_for_feature(layer),
        answer="",
        changed=False,
        content="",
        vectors=np.ascontiguousarray(vector, np.float32),
        details={"layer": layer},
        openings=openings_for_feature(layer),
        layers=(layer,),
    )
