"""Activation reading: questions whose answer only the vector holds, from any text in any number.

To warm an explainer up: one that is never made to read learns to answer from the text alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfx.features.exemplars.texts import read_texts
from selfx.tasks.balance import Quota
from selfx.tasks.blocks import Block, Plan, Progress, collect, settings_of, shape_of
from selfx.tasks.published import reading_cell
from selfx.tasks.reading_draws import Draw, Look, capped, draws
from selfx.tasks.reading_model import lens_words, read_places
from selfx.tasks.reading_questions import LISTED, listed
from selfx.tasks.reading_settings import Reading
from selfx.tasks.reading_texts import Texts, Window
from selfx.tasks.schema import READING, SCHEMAS
from selfx.tasks.split import short_hash, split_of
from selfx.weights.load import LanguageModel

TEXTS_A_BLOCK = 128
PLACES_A_TEXT = 10
"""Places looked at in a text; each kind of question takes one that suits it."""
OVERSAMPLE = 6
"""Questions drawn, at most, for each one wanted."""


def trace_reading(
    target: LanguageModel,
    out: Path,
    options: Reading,
    *,
    data: str | Path,
    limit: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The record of a trace of activation reading in `out`, made or completed.

    Args:
      target: the model whose activations are asked about.
      out: the trace folder.
      options: the settings.
      data: the texts that it reads, as `read_texts` takes them.
      limit: examples to keep, both splits together.
      seed: decides every draw.
      progress: called with (examples, limit, a note).

    Raises:
      SelfxError: a setting out of range, no text, another trace in `out`.
    """
    options.check(target.config)
    settings = settings_of(READING, target, options, data=data, limit=limit, seed=seed)
    maker = _Maker(target, read_texts(data), seed, options)
    test = round(limit * options.test_share)
    plan = Plan(
        task=READING,
        target=target.name,
        shape=shape_of(target.config),
        settings=settings,
        schema=SCHEMAS[READING],
        block=maker.block,
        most_blocks=-(-limit * OVERSAMPLE // (TEXTS_A_BLOCK * len(maker.asks))) + 1,
        quota=Quota(limit - test, test, cells=0, balanced=False),
        details=lambda: {"texts": str(data), "layers": list(maker.layers)},
    )
    return collect(plan, out, progress)


class _Maker:
    """Reads the texts of each block and asks about them."""

    def __init__(
        self, target: LanguageModel, documents: Sequence[str], seed: int, options: Reading
    ):
        self.target, self.seed, self.options = target, seed, options
        self.asks = options.chosen_asks()
        self.layers = options.chosen_layers(target.config.n_layers)
        self.read = tuple(sorted({layer for last in self.layers for layer in self._up_to(last)}))
        self.texts = Texts(target.tokenizer, documents, options.length)

    def block(self, number: int) -> Block:
        """The rows of block `number`: texts drawn by (seed, number), read, and asked about."""
        rng = np.random.default_rng([self.seed, number])
        drawn = (self.texts.draw(rng) for _ in range(TEXTS_A_BLOCK))
        windows = [window for window in drawn if window is not None]
        if not windows:
            return Block([], 0)
        places = np.stack([_places(window, rng) for window in windows])
        states, following = self._read(windows, places)
        partners = self._partners(windows, rng)
        asked: list[Draw] = []
        for text, window in enumerate(windows):
            said = self.texts.pieces(following[text])
            look = Look(window, partners[text], tuple(places[text]), said, self.options.shown)
            asked += draws(look, text, self.asks, self.layers, rng)
        asked = capped(self._with_lens(asked, states), self.options.most)
        rows = [self._row(windows[draw.text], places, states, draw) for draw in asked]
        return Block(rows, len(windows) * len(self.asks) - len(rows))

    def _up_to(self, last: int) -> range:
        """The layers of an example's vectors."""
        return range(last - self.options.vectors + 1, last + 1)

    def _read(self, windows: Sequence[Window], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The states `[n, p, l, d]` at the places, and the next tokens `[n, p]`."""
        texts, options = [window.ids for window in windows], self.options
        how: dict[str, Any] = {"layers": self.read, "batch_size": options.batch_size}
        return read_places(self.target.model, texts, places, site=options.site, **how)

    def _partners(self, windows: Sequence[Window], rng: np.random.Generator) -> list[Window | None]:
        """For each text one of another document of the same split."""
        splits = [self._split(window) for window in windows]
        found: list[Window | None] = []
        for window, split in zip(windows, splits, strict=True):
            others = [
                other
                for other, its in zip(windows, splits, strict=True)
                if its == split and other.document != window.document
            ]
            found.append(others[rng.integers(len(others))] if others else None)
        return found

    def _with_lens(self, asked: Sequence[Draw], states: np.ndarray) -> list[Draw]:
        """The questions with the answers of `lens`, without those that have too few words."""
        wanted = [draw for draw in asked if draw.ask == "lens"]
        vectors = [self._vectors(draw, states)[-1] for draw in wanted]
        if not wanted:
            return list(asked)
        target = self.target
        words = lens_words(target.model, target.tokenizer, np.stack(vectors), LISTED)
        said = {(d.text, d.slot): some for d, some in zip(wanted, words, strict=True)}
        found = []
        for draw in asked:
            some = said[draw.text, draw.slot] if draw.ask == "lens" else ()
            if draw.ask != "lens":
                found.append(draw)
            elif len(some) == LISTED:
                found.append(dataclasses.replace(draw, answer=listed(some)))
        return found

    def _vectors(self, draw: Draw, states: np.ndarray) -> np.ndarray:
        """float32 `[m, d]`: a question's vectors."""
        layers = [self.read.index(layer) for layer in self._up_to(draw.layer)]
        return states[draw.text, draw.slot, layers]

    def _split(self, window: Window) -> str:
        return split_of(window.document, self.seed, self.options.test_share)

    def _row(
        self, window: Window, places: np.ndarray, states: np.ndarray, draw: Draw
    ) -> dict[str, Any]:
        position, layers = int(places[draw.text, draw.slot]), list(self._up_to(draw.layer))
        asked = (draw.ask, self.options.site, layers, window.ids, position, draw.shown)
        return {
            "ask": draw.ask,
            "layers": layers,
            "vectors": list(self._vectors(draw, states)),
            "shown": list(draw.shown),
            "answer": draw.answer,
            "input_ids": list(window.ids),
            "position": position,
            "text": window.text,
            "site": self.options.site,
            "id": short_hash(READING, self.target.hash, asked),
            "group": window.document,
            "cell": reading_cell(draw.ask, layers),
            "split": self._split(window),
            "changed": False,
            "target_hash": self.target.hash,
            "seed": self.seed,
            "format": draw.ask,
        }


def _places(window: Window, rng: np.random.Generator) -> np.ndarray:
    """int `[p]`: places of a text to look at, none twice where there are enough."""
    return np.resize(rng.permutation(window.places()), PLACES_A_TEXT)
