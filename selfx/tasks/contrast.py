"""Activation patching that text cannot solve: contrast sets of patches that differ in the vector.

A set is `rows` patches of one text, at one token, in the same layers. Their questions are the same
to the letter; each has another outcome, and one is that nothing changes. So whatever answers from
the question alone is right for at most one row of each set, and what is above 1 / rows was read
from the vector. (After Gardner et al. 2020, contrast sets; the patch itself is the published one.)

Vectors come from a text of the same relation, from unrelated text, from two sources mixed, or from
a source mixed with what stands in the place itself, some of them longer or shorter: what is written
is not told by where it comes from.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfx import data as own
from selfx.errors import SelfxError
from selfx.features.exemplars.texts import read_texts
from selfx.interventions.pairs import Pair, run_pairs
from selfx.interventions.sources import Sources
from selfx.tasks import facts as F
from selfx.tasks.balance import Quota
from selfx.tasks.blocks import Block, Plan, Progress, collect, settings_of, shape_of
from selfx.tasks.contrast_draws import Blend, Cell, Drawer
from selfx.tasks.contrast_sets import Outcome, distinct, outcome, row
from selfx.tasks.rows import digest
from selfx.tasks.schema import CONTRAST, PATCHING, SCHEMAS
from selfx.tasks.split import TEST_SHARE, check_share
from selfx.weights.load import LanguageModel

CELLS_A_BLOCK = 48
OVERSAMPLE = 12
"""Places tried, at most, for each set wanted."""


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The settings of a trace of contrast sets.

    Attributes:
      rows: patches of a set, each with an outcome of its own.
      chunks: into how many contiguous groups the layers are cut.
      margin: by how much an outcome's logit must exceed the next: nearer ones are chance.
      texts: unrelated text that vectors are also taken from; "" for the text that comes with selfx.
      test_share: the share of subjects, and of texts, held out.
      batch_size: rows of one run.
    """

    rows: int = 4
    chunks: int = 4
    margin: float = 0.5
    texts: str = ""
    test_share: float = TEST_SHARE
    batch_size: int = 64

    def check(self, layers: int) -> None:
        """Raises SelfxError for settings that no trace of a model with `layers` can have."""
        if self.rows < 2:
            raise SelfxError(f"rows={self.rows}", expected="at least 2, to tell apart")
        if not 1 <= self.chunks <= layers:
            raise SelfxError(f"chunks={self.chunks}", expected=f"1 to {layers} layers")
        if not self.margin >= 0:
            raise SelfxError(f"margin={self.margin}", expected="0 or more, in logits")
        check_share(self.test_share)


def trace_contrast(
    target: LanguageModel,
    out: Path,
    options: Contrast,
    *,
    data: str | Path,
    limit: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The record of a trace of contrast sets in `out`, made or completed.

    Args:
      target: the model to experiment on.
      out: the trace folder.
      options: the settings.
      data: facts, as `selfx.tasks.facts.read_facts` takes them.
      limit: examples to keep, both splits together; each split is cut to whole sets.
      seed: decides every draw.
      progress: called with (examples, limit, a note).

    Raises:
      SelfxError: bad settings, facts or texts, or a folder that holds another trace.
    """
    options.check(target.config.n_layers)
    texts = options.texts or own.text_path()
    settings = settings_of(CONTRAST, target, options, data=data, limit=limit, seed=seed)
    settings["texts"] = digest(texts)
    maker = _Maker(target, F.read_facts(data), read_texts(texts), seed, options)
    wanted = _whole_sets(limit, options)
    plan = Plan(
        task=PATCHING,
        target=target.name,
        shape=shape_of(target.config),
        settings=settings,
        schema=SCHEMAS[PATCHING],
        block=maker.block,
        most_blocks=-(-limit * OVERSAMPLE // (CELLS_A_BLOCK * options.rows)) + 1,
        quota=wanted,
        details=lambda: {
            "design": "contrast",
            "facts": str(data),
            "texts": str(texts),
            "most_from_text": 1 / options.rows,
        },
    )
    return collect(plan, out, progress)


def _whole_sets(limit: int, options: Contrast) -> Quota:
    """How many rows each split gets: sets are not cut, and both splits have one."""
    sets = max(limit // options.rows, 2)
    test = min(max(round(sets * options.test_share), 1), sets - 1)
    size = options.rows
    return Quota((sets - test) * size, test * size, cells=0, balanced=False)


class _Maker:
    """Draws and runs the patches of each block, and keeps the sets among them."""

    def __init__(
        self,
        target: LanguageModel,
        facts: Sequence[F.Fact],
        documents: Sequence[str],
        seed: int,
        options: Contrast,
    ):
        self.target, self.seed, self.options = target, seed, options
        layers = np.array_split(np.arange(target.config.n_layers), options.chunks)
        self.drawer = Drawer(
            target.tokenizer,
            facts,
            documents,
            tuple(tuple(map(int, part)) for part in layers),
            seed=seed,
            test_share=options.test_share,
        )

    def block(self, number: int) -> Block:
        """The rows of block `number`: places drawn by (seed, number), every blend of them run."""
        rng = np.random.default_rng([self.seed, number])
        drawn = (self.drawer.cell(rng) for _ in range(CELLS_A_BLOCK))
        cells = [cell for cell in drawn if cell is not None]
        if not cells:
            return Block([], 0)
        vectors = self._vectors(cells)
        outcomes = self._outcomes(cells, vectors)
        rows = []
        for cell, some, found in zip(cells, vectors, outcomes, strict=True):
            for index in distinct(found, self.options.rows, self.options.margin, rng):
                about = (cell, cell.blends[index], some[index], found[index])
                rows.append(row(self.target, *about, number=number, seed=self.seed))
        return Block(rows, sum(map(len, vectors)) - len(rows))

    def _vectors(self, cells: Sequence[Cell]) -> list[np.ndarray]:
        """What each blend of each cell writes, float32 `[n, d]`."""
        spots = [part.spot for cell in cells for blend in cell.blends for part in blend.parts]
        sources = Sources(self.target.model, spots, self.options.batch_size)

        def written(cell: Cell, blend: Blend) -> np.ndarray:
            states = sources([part.spot for part in blend.parts])[:, list(cell.layers)]
            weights = np.array([part.weight for part in blend.parts], np.float32)
            return weights @ states.mean(axis=1, dtype=np.float32)

        return [np.stack([written(cell, blend) for blend in cell.blends]) for cell in cells]

    def _outcomes(
        self, cells: Sequence[Cell], vectors: Sequence[np.ndarray]
    ) -> list[list[Outcome]]:
        """What comes of each blend of each cell."""
        pairs = [
            Pair(cell.ids, cell.ids, cell.layers, cell.position, cell.position, "first")
            for cell, some in zip(cells, vectors, strict=True)
            for _ in some
        ]
        found = run_pairs(
            self.target.model,
            pairs,
            batch_size=self.options.batch_size,
            vectors=np.concatenate(vectors),
        )
        each = zip(found.base, found.patched, found.margin, strict=True)
        rows = iter([outcome(self.target.tokenizer, *map(float, one)) for one in each])
        return [list(itertools.islice(rows, len(some))) for some in vectors]
