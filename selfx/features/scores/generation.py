"""Generation scoring: text written from a description must excite the feature.

Unlike simulation this asks the model itself, so a description cannot score by guessing how texts
are usually written (as Kopf et al. 2024, arXiv 2405.20331, do with images). The texts written for
all *other* descriptions are the control: a feature that is on everywhere passes with any text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.statements import parse
from selfx.features.descriptions.words import examples_of
from selfx.features.exemplars.directions import Reader, check_reader, first_layers, read
from selfx.features.scores.score import ranked
from selfx.interventions.batching import chunks, pad
from selfx.models.decoder import Decoder
from selfx.weights.load import LanguageModel

CARRIERS = (
    "In the end they said {} once more.",
    "There was {} in the room at that time.",
    "We had heard of {} long before.",
    "It came down to {} again.",
)
"""Plain sentences that a written example stands in."""


class Writer(Protocol):
    """Writes texts that should excite what is described."""

    def __call__(self, descriptions: Sequence[str], count: int) -> list[list[str]]:
        """At most `count` texts for each description."""
        ...


@dataclasses.dataclass(frozen=True)
class Generation:
    """How the texts written for a description excite its feature; NaN where there are none.

    Attributes:
      fires: the share of them that bring it to `level` of its highest activation.
      elsewhere: the same share of the texts written for the other descriptions.
      ranked: the chance that one of its texts excites it more than another's does; 0.5 is nothing.
      texts: how many there were.
    """

    fires: float
    elsewhere: float
    ranked: float
    texts: int


def write(descriptions: Sequence[str], count: int) -> list[list[str]]:
    """Texts with what the descriptions name in them: the writer that needs no other model."""
    return [_written(description, count) for description in descriptions]


def _written(description: str, count: int) -> list[str]:
    clauses = sorted(parse(description).clauses, key=lambda clause: -clause.level)
    if not clauses:
        return []
    strongest = [clause.rule for clause in clauses if clause.level == clauses[0].level]
    texts = []
    for number in range(count):
        rule = strongest[number % len(strongest)]
        carrier = CARRIERS[number % len(CARRIERS)]
        texts.append(carrier.format(_instance(rule, number // len(strongest))))
    return texts


def _instance(rule: Rule, number: int) -> str:
    """Something at which the rule holds."""
    own = _own_instance(rule, number)
    if rule.after is None:
        return own
    before = _own_instance(rule.after, number)
    glue = " " if own[:1].isalnum() and before[-1:].isalnum() else ""
    return f"{before}{glue}{own}"


def _own_instance(rule: Rule, number: int) -> str:
    match rule.kind:
        case "class":
            examples = examples_of(rule.value)
            return examples[number % len(examples)]
        case "ending":
            return ("test", "work", "clear")[number % 3] + rule.value
        case "beginning":
            return rule.value + ("able", "ed", "er")[number % 3]
        case "everything":
            return "something"
    return rule.value


def score_generation(
    lm: LanguageModel,
    features: Reader,
    descriptions: Sequence[str],
    peaks: np.ndarray,
    writer: Writer = write,
    *,
    count: int = 8,
    level: float = 0.25,
    skip: int = 1,
    bos: int | None = None,
    batch_size: int = 16,
) -> list[Generation]:
    """How the texts written for each description excite its feature, and those of the others.

    Args:
      lm, features: the model, and what to read of it.
      descriptions: one for each feature, in order.
      peaks: `[n]`, the highest activation of each, as exemplars have it.
      writer: who writes.
      count, level: texts for each, and the share of the peak that one must reach.
      skip, bos: as in the exemplars: positions that do not count, a token to put first.
      batch_size: texts read at once.

    Raises:
      SelfxError: numbers of features, descriptions and peaks that differ.
    """
    if not features.count == len(descriptions) == len(peaks):
        raise SelfxError(
            f"{features.count} features, {len(descriptions)} descriptions, {len(peaks)} peaks",
            expected="one of each for every feature",
        )
    written = writer(descriptions, count)
    texts = [text for some in written for text in some]
    owner = np.repeat(np.arange(len(written)), [len(some) for some in written])
    found = peaks_on(lm, features, texts, skip=skip, bos=bos, batch_size=batch_size)
    return [
        _generation(found[:, index], owner == index, level * float(peaks[index]))
        for index in range(features.count)
    ]


def _generation(found: np.ndarray, own: np.ndarray, wanted: float) -> Generation:
    fires = (found >= wanted) & (found > 0)
    here, elsewhere = (
        float(fires[mask].mean()) if mask.any() else float("nan") for mask in (own, ~own)
    )
    return Generation(here, elsewhere, ranked(own, found), int(own.sum()))


def peaks_on(
    lm: LanguageModel,
    features: Reader,
    texts: Sequence[str],
    *,
    skip: int = 1,
    bos: int | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """float32 `[m, n]`: the highest activation of each feature in each text."""
    check_reader(features, lm.config)
    model = first_layers(lm.model, features.layer + 1)
    lead = [] if bos is None else [bos]
    rows = [lead + lm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    rows = [row or [0] for row in rows]
    found = [np.zeros((0, features.count), np.float32)]
    for some in chunks(rows, batch_size):
        tokens, mask = pad(some, batch_size)
        counted = mask & (np.arange(tokens.shape[1]) >= skip)
        found.append(np.asarray(_peaks(model, features, tokens, mask, counted))[: len(some)])
    return np.concatenate(found)


@jax.jit
def _peaks(
    model: Decoder, features: Reader, tokens: jax.Array, mask: jax.Array, counted: jax.Array
) -> jax.Array:
    """float32 `[b, n]`."""
    f = read(model, features, tokens, mask)
    return jnp.where(counted[..., None], f, 0.0).max(axis=1)
