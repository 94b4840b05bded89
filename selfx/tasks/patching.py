"""Activation patching: write another subject's residuals into a prompt, ask what comes next."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.interventions.pairs import Pair, PairResults, run_pairs
from selfx.tasks import facts as F
from selfx.tasks.balance import quota
from selfx.tasks.blocks import Block, Plan, Progress, collect, settings_of, shape_of
from selfx.tasks.published import patching_cell
from selfx.tasks.schema import PATCHING, SCHEMAS
from selfx.tasks.split import TEST_SHARE, check_share, short_hash, split_of
from selfx.weights.load import LanguageModel

TEXTS_A_BLOCK = 64
PATCHES_A_TEXT = 4
OVERSAMPLE = 6
"""Candidates drawn, at most, for each example wanted."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """A candidate: which prompts, where, and the pair to run."""

    base: F.Fact
    source: F.Fact
    token_type: str
    source_text: str
    pair: Pair


@dataclasses.dataclass(frozen=True)
class Patching:
    """The settings of a trace of activation patching.

    Attributes:
      format: `completion` continues the fact's prompt; `options` is the published forced choice,
        `options-chat` the same in the target's chat template, as published for Qwen3.
      chunks: into how many contiguous groups the layers are cut.
      test_share: the share of subjects held out.
      batch_size: rows of one run.
    """

    format: F.Format = "completion"
    chunks: int = 4
    test_share: float = TEST_SHARE
    batch_size: int = 64

    def check(self, layers: int) -> None:
        """Raises SelfxError for settings that no trace of a model with `layers` can have."""
        if self.format not in F.TOKEN_TYPES:
            raise SelfxError(
                f"format {self.format!r}", expected=f"one of {', '.join(F.TOKEN_TYPES)}"
            )
        if not 1 <= self.chunks <= layers:
            raise SelfxError(f"chunks={self.chunks}", expected=f"1 to {layers} layers")
        check_share(self.test_share)


def trace_patching(
    target: LanguageModel,
    out: Path,
    options: Patching,
    *,
    data: str | Path,
    limit: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The record of a trace of activation patching in `out`, made or completed.

    Args:
      target: the model to experiment on.
      out: the trace folder.
      options: the settings.
      data: facts, as `selfx.tasks.facts.read_facts` takes them.
      limit: examples to keep, both splits together.
      seed: decides every draw.
      progress: called with (examples, limit, a note).

    Raises:
      SelfxError: an unknown format, bad facts, or a folder that holds another trace.
    """
    options.check(target.config.n_layers)
    maker = _Maker(target, F.read_facts(data), seed, options)
    settings = settings_of(PATCHING, target, options, data=data, limit=limit, seed=seed)
    plan = Plan(
        task=PATCHING,
        target=target.name,
        shape=shape_of(target.config),
        settings=settings,
        schema=SCHEMAS[PATCHING],
        block=maker.block,
        most_blocks=-(-limit * OVERSAMPLE // (TEXTS_A_BLOCK * PATCHES_A_TEXT)) + 1,
        quota=quota(limit, options.test_share, maker.cells),
        details=lambda: {"facts": str(data)},
    )
    return collect(plan, out, progress)


class _Maker:
    """Draws and runs the candidates of each block."""

    def __init__(
        self, target: LanguageModel, facts: Sequence[F.Fact], seed: int, options: Patching
    ):
        self.target, self.seed, self.options = target, seed, options
        layers = np.array_split(np.arange(target.config.n_layers), options.chunks)
        self.layers = [tuple(map(int, part)) for part in layers]
        self.partners = F.partners(facts, seed, options.test_share)
        if not self.partners:
            raise SelfxError("no two facts of one relation and one split to exchange")
        self.bases = list(self.partners)
        self.relations = F.by_relation(facts)
        self.places = functools.cache(functools.partial(F.completion_places, target.tokenizer))

    @property
    def cells(self) -> int:
        """How many kinds of patches there are."""
        return len(self.layers) * len(F.TOKEN_TYPES[self.options.format])

    def block(self, number: int) -> Block:
        """The rows of block `number`: candidates drawn by (seed, number), run, and put in words."""
        rng = np.random.default_rng([self.seed, number])
        draws = [draw for _ in range(TEXTS_A_BLOCK) for draw in self._draws(rng)]
        if not draws:
            return Block([], 0)
        pairs = [draw.pair for draw in draws]
        results = run_pairs(
            self.target.model, pairs, batch_size=self.options.batch_size, keep_vectors=True
        )
        made = (self._row(draw, results, index) for index, draw in enumerate(draws))
        rows = [row for row in made if row is not None]
        return Block(rows, len(draws) - len(rows))

    def _draws(self, rng: np.random.Generator) -> list[Draw]:
        """A few patches into one random base text, each from a source of its own."""
        base = self.bases[rng.integers(len(self.bases))]
        found = (self._draw(base, rng) for _ in range(PATCHES_A_TEXT))
        return [draw for draw in found if draw is not None]

    def _draw(self, base: F.Fact, rng: np.random.Generator) -> Draw | None:
        others = self.partners[base]
        source = others[rng.integers(len(others))]
        layers = self.layers[rng.integers(len(self.layers))]
        kinds = F.TOKEN_TYPES[self.options.format]
        kind = kinds[rng.integers(len(kinds))]
        texts = self._texts(base, source, rng)
        if texts is None:
            return None
        into, out_of, source_text = texts
        where, whence = into.at[kind], out_of.at[kind]
        if not where or not whence:
            return None
        share = rng.random()
        pair = Pair(
            base_ids=into.ids,
            source_ids=out_of.ids,
            layers=layers,
            base_pos=where[int(share * len(where))],
            source_pos=whence[int(share * len(whence))],
            value="mean",
        )
        return Draw(base, source, kind, source_text, pair)

    def _texts(
        self, base: F.Fact, source: F.Fact, rng: np.random.Generator
    ) -> tuple[F.Places, F.Places, str] | None:
        """Where one may aim in the base's prompt and in the source's, and the latter's text."""
        if self.options.format == "completion":
            text = source.prompt
            into, out_of = self.places(base), self.places(source)
        else:
            options = F.draw_options(base, source, self.relations[base.relation], rng)
            chat = self.target.tokenizer if self.options.format == "options-chat" else None
            texts = [F.options_prompt(fact, options, chat) for fact in (base, source)]
            into, out_of = (
                F.option_places(
                    self.target.tokenizer, fact, text, options, base.attribute, source.attribute
                )
                for fact, text in zip((base, source), texts, strict=True)
            )
            text = texts[1]
        return (into, out_of, text) if into and out_of else None

    def _row(self, draw: Draw, results: PairResults, index: int) -> dict[str, Any] | None:
        """The row of a candidate, or None where its outcome cannot be worded."""
        before, after = int(results.base[index]), int(results.patched[index])
        texts = [str(self.target.tokenizer.decode([token])) for token in (before, after)]
        if not all(sayable(text) for text in texts):
            return None
        assert results.vectors is not None
        changed = texts[0].strip() != texts[1].strip()
        return {
            **self._experiment(draw, results.vectors[index]),
            **self._provenance(draw),
            "original_continuation": texts[:1],
            "ablated_continuation": texts[1:],
            "is_different": changed,
            "original_id": before,
            "ablated_id": after,
            "margin": float(results.margin[index]),
            "changed": changed,
        }

    def _experiment(self, draw: Draw, vector: np.ndarray) -> dict[str, Any]:
        """The columns that say what was done."""
        pair, layers = draw.pair, list(draw.pair.layers)
        base, source = (
            self.target.tokenizer.convert_ids_to_tokens(list(ids))
            for ids in (pair.base_ids, pair.source_ids)
        )
        return {
            "layer": layers,
            "layer_hashable": layers,
            "token_type": draw.token_type,
            "input_tokens": base,
            "input_ids": list(pair.base_ids),
            "source_ids": list(pair.source_ids),
            "patch_position": {
                "counterfact_pos": pair.source_pos,
                "counterfact_text_token": source[pair.source_pos],
                "intervention_vector": vector,
                "orig_pos": pair.base_pos,
                "orig_text_token": base[pair.base_pos],
            },
            "counterfactual_text": draw.source_text,
            "gt_original_target": draw.base.attribute,
            "gt_counterfactual_target": draw.source.attribute,
        }

    def _provenance(self, draw: Draw) -> dict[str, Any]:
        """The columns that say whose experiment it is."""
        return {
            "id": short_hash(PATCHING, self.target.hash, dataclasses.astuple(draw.pair)),
            "group": draw.base.subject,
            "cell": patching_cell(draw.token_type, list(draw.pair.layers)),
            "split": split_of(draw.base.subject, self.seed, self.options.test_share),
            "target_hash": self.target.hash,
            "seed": self.seed,
            "format": self.options.format,
        }


def sayable(text: str) -> bool:
    """Whether an output can stand between the answer's brackets and be read back."""
    shown = text.strip()
    return bool(shown) and shown.isprintable() and not set(shown) & set("<>�")
