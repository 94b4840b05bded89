"""Activation reading, now: what a residual or a saved vector holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.features.exemplars.excerpts import Pieces
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Asked, Desk, Place, Truth
from selfx.tasks.now.inputs import read_vector
from selfx.tasks.now.places import Tokens, find_place, tokens_of
from selfx.tasks.now.request import ASKABLE, Request
from selfx.tasks.plain_words import word_of
from selfx.tasks.published import reading_cell
from selfx.tasks.reading_model import lens_words
from selfx.tasks.reading_questions import (
    LISTED,
    listed,
    openings_for_reading,
    questions_for_reading,
)
from selfx.tasks.reading_texts import Window
from selfx.tasks.schema import READING
from selfx.tasks.split import short_hash


@dataclasses.dataclass(frozen=True)
class Look:
    """What answers a question: the kind, the place if there is one, and the last vector `[d]`."""

    ask: str
    vector: np.ndarray
    window: Window | None = None
    position: int = -1
    following: int = -1


def text_and_place(request: Request, desk: Desk) -> tuple[Tokens, int]:
    """The text as running text is read, and the place in it."""
    target = desk.target
    tokens = tokens_of(target.tokenizer, request.text, target.config.max_positions, bare=True)
    return tokens, find_place(tokens, request.at)


def places(request: Request, desk: Desk) -> list[Place]:
    """The place in the text, if it is about one."""
    for layers in request.groups:
        desk.check_layers(layers)
    if request.vector:
        return []
    tokens, position = text_and_place(request, desk)
    return [(tokens.ids, position)]


def questions(request: Request, desk: Desk) -> list[Asked]:
    """A question of each kind for each group of layers."""
    asks = request.ask or ASKABLE
    if request.vector:
        vector = read_vector(request.vector, desk.width)
        about: dict[str, Any] = {"vector": request.vector}
        found = [(group, np.repeat(vector, len(group), axis=0)) for group in request.groups]
        return [_asked(ask, group, held, about) for group, held in found for ask in asks]
    tokens, position = text_and_place(request, desk)
    read = desk.seen[tokens.ids, position]
    window = _window(tokens, desk)
    about = {"text": tokens.text, "position": position, "token": tokens.piece(position)}
    return [
        _asked(ask, group, read.states[list(group)], about, window, position, read.following)
        for group in request.groups
        for ask in asks
    ]


def truths(asked: Sequence[Asked], desk: Desk) -> list[Truth]:
    """What is at each place, what comes next, and what the head reads."""
    return [_truth(each.experiment, desk) for each in asked]


def _truth(look: Look, desk: Desk) -> Truth:
    if look.ask == "lens":
        target = desk.target
        words = lens_words(target.model, target.tokenizer, look.vector[None], LISTED)[0]
        return Truth(listed(words), facts={"lens": list(words)})
    if look.window is None:
        return Truth(note="only the vector is known, not the place that it is from")
    if look.ask == "before":
        said = look.window.said_until(look.position, LISTED)
        return Truth(said or "", note="" if said else f"not {LISTED} words end there")
    piece = look.window.pieces[look.position]
    if look.ask == "next":
        piece = Pieces(desk.target.tokenizer)([look.following])[0]
    note = "" if word_of(piece) else f"{piece!r} is no word, and never asked for in a trace"
    return Truth(piece.strip(), facts={look.ask: piece}, note=note)


def _window(tokens: Tokens, desk: Desk) -> Window:
    """The text as a trace has it; its last word is whole here."""
    lead = sum(start == end for start, end in tokens.spans[:1])
    pieces = Pieces(desk.target.tokenizer)(tokens.ids[lead:])
    return Window("", (*tokens.ids, -1), (*[""] * lead, *pieces, " ."), lead)


def _asked(
    ask: str,
    layers: tuple[int, ...],
    vectors: np.ndarray,
    about: dict[str, Any],
    window: Window | None = None,
    position: int = -1,
    following: int = -1,
) -> Asked:
    look = Look(ask, vectors[-1], window, position, following)
    return Asked(_example(ask, layers, vectors), {"ask": ask, **about, "layers": layers}, look)


def _example(ask: str, layers: tuple[int, ...], vectors: np.ndarray) -> Example:
    return Example(
        id=short_hash(READING, ask, layers, vectors.tobytes()),
        task=READING,
        split="now",
        group="",
        cell=reading_cell(ask, list(layers)),
        system="",
        questions=questions_for_reading(ask, layers),
        answer="",
        changed=False,
        content="",
        vectors=np.ascontiguousarray(vectors, np.float32),
        details={"ask": ask, "layers": list(layers), "shown": []},
        openings=openings_for_reading(ask, layers),
        layers=layers,
    )
