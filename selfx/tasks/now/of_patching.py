"""Activation patching, now: one text's residual written into another, as a trace writes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfx.interventions.pairs import Pair, run_pairs
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Asked, Desk, Place, Truth
from selfx.tasks.now.places import Tokens, find_place, tokens_of
from selfx.tasks.now.request import Request
from selfx.tasks.pieces import pieces_to_text
from selfx.tasks.published import patching_cell
from selfx.tasks.schema import PATCHING
from selfx.tasks.split import short_hash
from selfx.tasks.wording import questions_for_patching, word


def places(request: Request, desk: Desk) -> list[Place]:
    """Where the source is read."""
    _, (source, position) = _texts(request, desk)
    return [(source.ids, position)]


def questions(request: Request, desk: Desk) -> list[Asked]:
    """A question for each group of layers."""
    (base, place), (source, position) = _texts(request, desk)
    states = desk.seen[source.ids, position].states
    found = []
    for layers in request.groups:
        pair = Pair(base.ids, source.ids, layers, place, position, "mean")
        # The mean over the layers is what all of them are given, and what a trace shows.
        vector = states[list(layers)].mean(axis=0, dtype=np.float32)[None]
        about = {
            "text": base.text,
            "position": place,
            "token": base.piece(place),
            "source_text": source.text,
            "source_position": position,
            "source_token": source.piece(position),
            "layers": list(layers),
        }
        found.append(Asked(_example(base, place, layers, vector), about, pair))
    return found


def truths(asked: Sequence[Asked], desk: Desk) -> list[Truth]:
    """The next token before and after each patch."""
    target = desk.target
    pairs = [each.experiment for each in asked]
    results = run_pairs(target.model, pairs, batch_size=min(64, len(pairs)))
    found = []
    for before, after, margin in zip(results.base, results.patched, results.margin, strict=True):
        said = [str(target.tokenizer.decode([int(token)])) for token in (before, after)]
        old, new = (text.strip() for text in said)
        facts = {"before": said[0], "after": said[1], "margin": float(margin)}
        note = "" if _in_traces(old) and _in_traces(new) else "an output that no trace has"
        found.append(Truth(word(old != new, new), old != new, new, facts, note=note))
    return found


def _in_traces(shown: str) -> bool:
    """Whether an output can stand between the answer's brackets and be read back."""
    return (
        bool(shown) and shown.isprintable() and not set(shown) & set("<>\N{REPLACEMENT CHARACTER}")
    )


def _texts(request: Request, desk: Desk) -> tuple[tuple[Tokens, int], tuple[Tokens, int]]:
    """The text that is patched and the place in it, and the same of the source."""
    target = desk.target
    for layers in request.groups:
        desk.check_layers(layers)
    longest = target.config.max_positions
    base = tokens_of(target.tokenizer, request.text, longest)
    source = tokens_of(target.tokenizer, request.source_text, longest)
    place = find_place(base, request.at)
    return (base, place), (source, find_place(source, request.source_at, "source_at"))


def _example(base: Tokens, place: int, layers: tuple[int, ...], vector: np.ndarray) -> Example:
    text, token = pieces_to_text(base.names), base.names[place]
    return Example(
        id=short_hash(PATCHING, base.ids, place, layers, vector.tobytes()),
        task=PATCHING,
        split="now",
        group=text,
        cell=patching_cell("any", list(layers)),
        system="",
        questions=questions_for_patching(layers, pieces_to_text([token]), text),
        answer="",
        changed=False,
        content="",
        vectors=vector,
        details={  # from which a part of the question can be left out
            "layer": list(layers),
            "input_tokens": list(base.names),
            "patch_position": {"orig_text_token": token},
        },
        layers=(layers[len(layers) // 2],),
    )
