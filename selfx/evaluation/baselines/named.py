"""Every baseline by its name: what answers a trace's questions without having learned to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import DESCRIPTIONS, WORDS, Kind
from selfx.evaluation.answers.scoring import Answered, Scoring
from selfx.evaluation.answers.word_answers import (
    head_words,
    majority_words,
    majority_words_per_ask,
    majority_words_per_cell,
)
from selfx.evaluation.asked import FEW_SHOT, UNTRAINED, Asked
from selfx.evaluation.baselines.constant import BASELINES, Baseline
from selfx.evaluation.baselines.nearest import (
    commonest,
    gold,
    nearest_by_text,
    nearest_cosine,
    nearest_dot,
    nearest_in_cell,
)
from selfx.evaluation.baselines.probe import probe_verdicts, probe_words
from selfx.evaluation.baselines.shifted import shifted_scores
from selfx.explainer.selfie import SCALES
from selfx.features.descriptions.promoted import named, promoted_tokens
from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.statements import LEVELS, Clause, Statement
from selfx.features.exemplars.excerpts import Pieces
from selfx.tasks.example import Example

CHOSEN_ON = 64
"""Training examples at most that SelfIE's length is chosen on."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a baseline may use.

    Attributes:
      data: the trace folder.
      train, test: its examples.
      asked: asks models.
      scoring: scores answers.
    """

    data: Path
    train: Sequence[Example]
    test: Sequence[Example]
    asked: Asked
    scoring: Scoring


LOOKED_UP: dict[str, dict[str, Baseline]] = {
    "verdicts": {
        **BASELINES,
        "nearest-vector": nearest_in_cell,
        "nearest-text": nearest_by_text,
        "probe": probe_verdicts,
        "shifted-scores": shifted_scores,
    },
    "descriptions": {
        "majority": commonest,
        "nearest-cosine": nearest_cosine,
        "nearest-dot": nearest_dot,
        "gold": gold,
    },
    "words": {
        "majority": majority_words,
        "majority-per-ask": majority_words_per_ask,
        "majority-per-cell": majority_words_per_cell,
        "nearest-vector": nearest_in_cell,
        "nearest-text": nearest_by_text,
        "probe": probe_words,
    },
}
"""For each kind, the baselines that need the examples alone."""


def looked_up(
    kind: Kind, names: Sequence[str], train: Sequence[Example], test: Sequence[Example]
) -> dict[str, Answered]:
    """The answers of those baselines that need no model.

    Raises:
      SelfxError: one that learns from training examples, and there are none.
    """
    for name in names:
        if not train and name not in _UNLEARNED:
            raise SelfxError(
                f"baseline {name!r} without training examples", hint="--baselines untrained"
            )
    here = LOOKED_UP[kind.name]
    return {name: Answered(name, "none", here[name](train, test)) for name in names if name in here}


def untrained(bench: Bench) -> Answered:
    """The answers of the model before training."""
    return bench.asked.untrained()


def few_shot(bench: Bench) -> Answered:
    """The answers of the model before training, shown a few true ones first."""
    return bench.asked.few_shot(bench.train)


def logit_lens(bench: Bench) -> Answered:
    """What the explainer's own head reads from each vector: words, or a description of a direction.

    A description names the tokens that the direction raises.
    """
    base = bench.asked.explainer.base
    if bench.scoring.kind is WORDS:
        return Answered("logit-lens", "none", head_words(base, bench.test))
    pieces = Pieces(base.tokenizer)
    raised = (named(pieces, ids) for ids in promoted_tokens(base.model, bench.asked.single)[0])
    level = max(LEVELS.values())
    statements = [
        Statement(tuple(Clause(Rule("token", token), level) for token in tokens), tokens)
        for tokens in raised
    ]
    return Answered("logit-lens", "none", [statement.text for statement in statements])


def selfie(bench: Bench) -> Answered:
    """The answers of the model before training at the length that is best on training examples.

    Descriptions are asked for as SelfIE asks; of what else is to be answered SelfIE's prompt says
    nothing, so the questions themselves are asked, the vector in them a marker of that length.
    """
    scale, means = _best_scale(bench)
    note = {"scale": scale, "training_scores": means, "features": len(_drawn(bench))}
    return Answered("selfie", "none", _said(bench, bench.test, scale), note=note)


def selfie_oracle(bench: Bench) -> Answered:
    """SelfIE's answers at all lengths, to be scored by the best for each feature and measure.

    The text shown for each feature is the one of the best headline score.
    """
    lists = [bench.asked.selfie(bench.asked.single, scale) for scale in SCALES]
    runs = [Answered("selfie", f"{scale:g}", one) for scale, one in zip(SCALES, lists, strict=True)]
    headline = bench.scoring.kind.headline
    scores = np.stack([rows.columns()[headline] for rows in bench.scoring.rate(bench.test, runs)])
    shown = [lists[best][row] for row, best in enumerate(scores.argmax(axis=0))]
    return Answered("selfie-oracle", "none", shown, tuple(lists))


MODELS: dict[str, Callable[[Bench], Answered]] = {
    UNTRAINED: untrained,
    FEW_SHOT: few_shot,
    "logit-lens": logit_lens,
    "selfie": selfie,
    "selfie-oracle": selfie_oracle,
}
"""The baselines that ask a model, whatever the kind."""

_UNLEARNED = (UNTRAINED, "logit-lens", "selfie-oracle", "gold")


def _drawn(bench: Bench) -> list[Example]:
    """The training features that the length is chosen on."""
    rng = np.random.default_rng(bench.asked.settings.seed)
    count = min(CHOSEN_ON, len(bench.train))
    rows = rng.choice(len(bench.train), count, replace=False)
    return [bench.train[row] for row in sorted(rows)]


def _said(bench: Bench, examples: Sequence[Example], scale: float) -> list[str]:
    """What the model before training says of examples' vectors at a length."""
    if bench.scoring.kind is not DESCRIPTIONS:
        return bench.asked.marked(examples, scale)
    if examples is bench.test:
        return bench.asked.selfie(bench.asked.single, scale)
    vectors = np.stack([example.vector for example in examples if example.vector is not None])
    return bench.asked.selfie(vectors, scale)


def _best_scale(bench: Bench) -> tuple[float, dict[str, float]]:
    """The length of the best mean score on training features, the first of several; all means."""
    examples = _drawn(bench)
    runs = [Answered("selfie", f"{scale:g}", _said(bench, examples, scale)) for scale in SCALES]
    scoring = bench.scoring.elsewhere(bench.data, "train", examples)
    means = [scoring.kind.headline_of(rows) for rows in scoring.rate(examples, runs)]
    best = SCALES[int(np.argmax(means))]
    return best, {run.control: mean for run, mean in zip(runs, means, strict=True)}
