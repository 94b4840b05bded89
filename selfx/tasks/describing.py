"""Feature description: which texts excite a direction, put in words."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from selfx import data as own
from selfx.features.descriptions.describe import Description
from selfx.features.descriptions.promoted import named, promoted_tokens
from selfx.features.exemplars.corpus import Corpus, start_token, windows
from selfx.features.exemplars.excerpts import Evidence, Pieces, evidence_of, halves, once_each
from selfx.features.exemplars.files import mined
from selfx.features.exemplars.mine import Exemplars, Search
from selfx.features.exemplars.texts import read_texts
from selfx.tasks import directions as D
from selfx.tasks import facts as F
from selfx.tasks.balance import Quota
from selfx.tasks.blocks import BLOCKS, Block, Plan, Progress, collect, settings_of, shape_of
from selfx.tasks.describers import Describers, describers
from selfx.tasks.describing_settings import Describing
from selfx.tasks.evidence import excerpt_row
from selfx.tasks.families import families
from selfx.tasks.published import feature_cell
from selfx.tasks.rows import digest
from selfx.tasks.schema import FEATURES, SCHEMAS
from selfx.tasks.split import short_hash, split_of
from selfx.weights.load import LanguageModel

FEATURES_A_BLOCK = 64
OVERSAMPLE = 1.6
"""Directions looked at, at most, for each example wanted: some are hardly ever on."""
_FILES = ("dictionary", "facts")
"""Settings that name files: what they hold decides, not where they lie."""


def trace_features(
    target: LanguageModel,
    out: Path,
    options: Describing,
    *,
    data: str | Path,
    limit: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The record of a trace of feature descriptions in `out`, made or completed.

    Args:
      target: the model whose directions are described.
      out: the trace folder.
      options: the settings.
      data: the texts to look for exemplars in, as `read_texts` takes them.
      limit: examples to keep, both splits together.
      seed: decides every draw.
      progress: called with (done, total, a note).

    Raises:
      SelfxError: a setting out of range, no dictionary, no text, another trace in `out`.
    """
    options.check()
    settings = settings_of(FEATURES, target, options, data=data, limit=limit, seed=seed)
    settings |= {name: digest(given) for name in _FILES if (given := getattr(options, name))}
    maker = _Maker(target, Path(out), data, limit, seed, options, progress)
    test = round(limit * options.test_share)
    plan = Plan(
        task=FEATURES,
        target=target.name,
        shape=shape_of(target.config),
        settings=settings,
        schema=SCHEMAS[FEATURES],
        block=maker.block,
        most_blocks=-(-round(limit * OVERSAMPLE) // FEATURES_A_BLOCK),
        quota=Quota(limit - test, test, cells=0, balanced=False),
        details=lambda: {"texts": str(data), "directions": maker.about()},
    )
    return collect(plan, out, progress)


class _Maker:
    """Finds the exemplars of all directions when they are first needed, then describes them."""

    def __init__(
        self,
        target: LanguageModel,
        out: Path,
        data: str | Path,
        limit: int,
        seed: int,
        options: Describing,
        progress: Progress,
    ):
        self.target, self.seed, self.options, self.progress = target, seed, options, progress
        self.kept, self.wanted, self.data = out / BLOCKS, round(limit * OVERSAMPLE), data
        self.pieces = Pieces(target.tokenizer)

    def block(self, number: int) -> Block:
        """The rows of block `number`: its directions in the order that the seed gives."""
        start = number * FEATURES_A_BLOCK
        rows, asked = [], self.order[start : start + FEATURES_A_BLOCK]
        evidence = [halves(self._evidence(int(candidate))) for candidate in asked]
        usable = [i for i, parts in enumerate(evidence) if _enough(parts, self.options)]
        said = self._describe([self._shown(int(asked[i]), evidence[i][0]) for i in usable])
        for i, description in zip(usable, said, strict=True):
            if description is not None:
                rows.append(self._row(int(asked[i]), evidence[i][1], description))
        return Block(rows, len(asked) - len(rows))

    def about(self) -> list[dict[str, Any]]:
        """What `trace.json` says of the directions."""
        return [
            {"name": s.name, "site": s.reader.site, "layer": s.reader.layer, "read": len(s.numbers)}
            for s in self.sources
        ]

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The texts, cut into windows."""
        tokenizer = self.target.tokenizer
        bos, context = start_token(tokenizer), self.options.context
        return windows(tokenizer, read_texts(self.data), context=context, bos=bos)

    @functools.cached_property
    def sources(self) -> list[D.Source]:
        """The directions that are looked at."""
        rng, options = np.random.default_rng(self.seed), self.options
        if options.directions == "latents":
            return D.latents(self.target, options.dictionary, self.wanted, rng)
        layers = options.chosen_layers(self.target.config.n_layers)
        if options.directions == "neurons":
            return D.of_neurons(self.target, layers, self.wanted, rng)
        if options.directions == "activations":
            return D.of_activations(self.target, self.corpus, layers, self.wanted, rng)
        facts = F.read_facts(options.facts or own.facts_path())
        return D.of_differences(self.target, facts, layers, self.wanted, rng)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """int `[n]`: every direction once, shuffled."""
        return np.random.default_rng((self.seed, 1)).permutation(len(self.places))

    @functools.cached_property
    def places(self) -> list[tuple[int, int]]:
        """`(source, direction)` of every direction."""
        return [(s, i) for s, one in enumerate(self.sources) for i in range(len(one.numbers))]

    @functools.cached_property
    def families(self) -> np.ndarray:
        """int `[n]`: directions that are nearly the same share a number."""
        return families(np.concatenate([s.vectors for s in self.sources]), self.options.alike)

    @functools.cached_property
    def exemplars(self) -> list[Exemplars]:
        """What excites each source's directions; found on disk where they were looked for."""
        options = self.options
        n = options.exemplars
        search = Search(n, n, n, options.batch_size, self.seed)
        return [
            mined(
                self.target,
                source.reader,
                self.corpus,
                self.kept / "exemplars" / source.name,
                search,
                report=self._reading(source.name),
            )
            for source in self.sources
        ]

    @functools.cached_property
    def logits(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The tokens that each source's directions raise and lower."""
        return [promoted_tokens(self.target.model, s.vectors) for s in self.sources]

    def _reading(self, name: str) -> Progress:
        return lambda done, total, note: self.progress(done, total, f"{note} read for {name}")

    def _evidence(self, candidate: int) -> Evidence:
        source, index = self.places[candidate]
        high, low = (named(self.pieces, ids[index]) for ids in self.logits[source])
        found = evidence_of(
            self.exemplars[source], index, self.pieces, promoted=high, suppressed=low
        )
        return dataclasses.replace(found, feature=int(self.sources[source].numbers[index]))

    def _shown(self, candidate: int, evidence: Evidence) -> tuple[int, Evidence]:
        """The layer, and what the describer may look at."""
        layer = self.sources[self.places[candidate][0]].reader.layer
        if self.options.about == "both":
            return layer, evidence
        return layer, dataclasses.replace(evidence, promoted=(), suppressed=())

    @functools.cached_property
    def _describe(self) -> Describers:
        return describers(self.options.describer, self.kept / "answers")

    def _row(self, candidate: int, scored: Evidence, description: Description) -> dict[str, Any]:
        place, index = self.places[candidate]
        source = self.sources[place]
        family = f"family {self.families[candidate]}"
        return {
            "layer": source.reader.layer,
            "feature_idx": scored.feature,
            "chosen_label": description.text,
            "all_labels": [description.text],
            "vector": source.vectors[index],
            "site": source.reader.site,
            "dictionary": source.name,
            "describer": description.by,
            "label_correlation": description.correlation,
            "peak": self.exemplars[place].peak(index),
            "frequency": scored.frequency,
            "promoted": list(scored.promoted),
            "suppressed": list(scored.suppressed),
            "excerpts": [excerpt_row(each) for each in scored.excerpts],
            "id": short_hash(
                FEATURES, self.target.hash, source.name, source.vectors[index].tobytes()
            ),
            "group": family,
            "cell": feature_cell(source.reader.layer),
            "split": split_of(family, self.seed, self.options.test_share),
            "changed": False,
            "target_hash": self.target.hash,
            "seed": self.seed,
            "format": self.options.directions,
        }


def _enough(parts: tuple[Evidence, Evidence], options: Describing) -> bool:
    """Whether a direction is on in enough texts, on either side."""
    on = [sum(text.peak > 0 for text in once_each(part.excerpts)) for part in parts]
    return min(on) > 0 and sum(on) >= options.least
