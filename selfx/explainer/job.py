"""What a run is going to do, made from settings, data and an explainer before any of it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.batches import Plan, row
from selfx.explainer.mixture import Mixture
from selfx.explainer.origin import check_layers
from selfx.explainer.probed import Words, probing
from selfx.explainer.projection.drawn import DRAWS
from selfx.explainer.projection.files import load_projection
from selfx.explainer.prompts import check_room, make_prompter
from selfx.explainer.reader import Reader, centring, check_reader, unit
from selfx.explainer.run import Run
from selfx.explainer.step import Frozen, How
from selfx.explainer.trained import Trained, begin, continued
from selfx.explainer.training import Training
from selfx.explainer.watch import Watch, divide
from selfx.models.quantized import is_quantized
from selfx.tasks.example import Example
from selfx.tasks.withheld import withheld
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be done, before any of it is.

    Attributes:
      training: the settings.
      trained: the parts to train, as they start.
      frozen: what stays.
      how: what a step is compiled for.
      plan: which rows each step sees.
      watch: looks at held-out rows, or None without any.
      total: steps, unless patience ends it.
    """

    training: Training
    trained: Trained
    frozen: Frozen
    how: How
    plan: Plan
    watch: Watch | None
    total: int


def prepare(explainer: LanguageModel, mixture: Mixture, training: Training) -> Job:
    """The job that some settings and data make.

    Raises:
      SelfxError: settings and explainer and vectors do not go together.
    """
    config, origin, size = explainer.config, mixture.origin, training.batch_size
    check_layers(mixture.examples, origin, config, training.way.own, training.at)
    if "full" in training.trains and is_quantized(explainer.model):
        raise SelfxError("all weights of a quantised model to train", hint="--trains lora")
    learned, watched = divide(mixture.examples, training.held_out, training.seed)
    # Of what a probe was fitted to it says too much to learn from how far it can be trusted.
    learned, probed = divide(learned, training.probed, training.seed, most=len(learned))
    trained, given = _parts(explainer, training, mixture, probed)
    whole = trained.reader.over(given) if trained.reader is not None else given
    check_reader(whole, origin.width, config.d_model)
    _check_told(mixture, training.withhold)
    prompter = make_prompter(
        explainer.tokenizer, explainer.eos_ids, training.style, training.withhold
    )
    plan = Plan(
        learned,
        prompter,
        width=origin.width,
        batch_size=size,
        seed=training.seed,
        times=mixture.times_of(learned),
    )
    rows = [row(example, prompter) for example in watched]
    check_room(max(plan.longest, *(len(row) for row in rows), 0), config)
    how = How(
        training.way,
        origin.layers,
        training.dropout,
        training.accumulate,
        training.remat,
        training.seed,
    )
    most = max(plan.vectors, *(len(row.slots) for row in rows), 1)
    watch = Watch(rows, how, size=size, width=origin.width, vectors=most) if rows else None
    total = max(1, round(training.epochs * plan.steps_per_epoch))
    return Job(training, trained, Frozen(explainer.model, given), how, plan, watch, total)


def _check_told(mixture: Mixture, parts: Sequence[str]) -> None:
    """Raises SelfxError for a part to withhold that none of the questions has."""
    for part in parts:
        if all(withheld(example, part) is example for example in mixture.examples):
            raise SelfxError(
                f"withhold {part}",
                expected="a part of some question in the traces",
                hint="leave it out",
            )


def _parts(
    explainer: LanguageModel, training: Training, mixture: Mixture, probed: Sequence[Example]
) -> tuple[Trained, Reader | None]:
    """The parts to train as they start, and what of a reader is given and stays."""
    config, origin = explainer.config, mixture.origin
    trained = begin(config, explainer.model, training, origin.layers, origin.width)
    before = Trained()
    if training.start:
        before = _started(Run(Path(training.start)), explainer, training)
        trained = continued(trained, before, training.start)
    given = _given(before.reader, training)
    asked = bool(training.projection) or "projection" in training.trains
    if asked and (given is None or given.projection is None):
        earlier = None if before.reader is None else before.reader.projection
        drawn = _projection(explainer, training, mixture) if earlier is None else earlier
        start = Reader(projection=drawn)
        if "projection" not in training.trains:
            given = start.over(given)
        elif trained.reader is not None and trained.reader.projection is None:
            trained = dataclasses.replace(trained, reader=start.over(trained.reader))
    if training.centred and (before.reader is None or before.reader.bias is None):
        trained, given = _started_at(_centring(mixture, trained, given), trained, given)
    if training.probed and (before.reader is None or before.reader.words is None):
        words = _words(explainer)
        probe = probing(probed, words, layers=origin.layers, width=origin.width)
        trained, given = _started_at(probe, trained, given)
    return trained, given


def _words(explainer: LanguageModel) -> Words:
    """The explainer's tokens, their embeddings in units of their mean length."""
    table = np.asarray(explainer.model.embed[...], np.float32)

    def tokenize(text: str) -> Sequence[int]:
        return explainer.tokenizer(text, add_special_tokens=False)["input_ids"]

    return Words(tokenize, table / np.linalg.norm(table, axis=1).mean())


def _started_at(
    start: Reader, trained: Trained, given: Reader | None
) -> tuple[Trained, Reader | None]:
    """The parts to train and those given, with `start` for those of them that it has."""
    own = {} if trained.reader is None else trained.reader.given
    kept = Reader(**{name: part for name, part in start.given.items() if name not in own})
    begun = Reader(**{name: part for name, part in start.given.items() if name in own})
    if begun.given:
        trained = dataclasses.replace(trained, reader=begun.over(trained.reader))
    return trained, kept.over(given) if kept.given else given


def _centring(mixture: Mixture, trained: Trained, given: Reader | None) -> Reader:
    """The scale and bias that centre the training vectors, projected where they are."""
    held = [e for e in mixture.examples if e.vectors is not None and e.layers]
    vectors = [e.vectors for e in held if e.vectors is not None]
    if not vectors:
        raise SelfxError("no vectors to centre", hint="--no-centred")
    layers = np.concatenate([np.array(e.layers) for e in held])
    projection = next(
        (r.projection for r in (trained.reader, given) if r and r.projection is not None), None
    )
    directions = unit(jnp.asarray(np.concatenate(vectors)))[None]
    read = Reader(projection=projection)(directions, jnp.asarray(layers)[None])[0]
    return centring(np.asarray(read), layers, mixture.origin.layers)


def _projection(explainer: LanguageModel, training: Training, mixture: Mixture) -> jax.Array:
    """float32 `[l, d, d]`: drawn, or read from the folder of one that was fitted."""
    origin, spec = mixture.origin, training.projection or "random"
    if spec in DRAWS:
        key = jax.random.key(training.seed + 1)
        return DRAWS[spec](origin.layers, origin.width, explainer.config.d_model, key)
    target = next((hash for r in mixture.records if (hash := r.get("target_hash"))), "")
    return jnp.asarray(load_projection(spec, target, explainer.hash).matrices)


def _started(run: Run, explainer: LanguageModel, training: Training) -> Trained:
    """What the run to start from trained.

    Raises:
      SelfxError: it explains with another model, or reads its vectors in another way.
    """
    record = run.record()
    if record["explainer_hash"] != explainer.hash:
        raise SelfxError(
            f"a start from {run.path}, trained from {record['explainer']}",
            expected=f"a run trained from {explainer.name}",
        )
    before = dataclasses.replace(run.training(), blind=training.blind)  # either may go on blindly
    if (before.way, before.lora_scale) != (training.way, training.lora_scale):
        raise SelfxError(
            f"a start from {run.path}, which has {before.way} and adapters times "
            f"{before.lora_scale:g}",
            expected=f"{training.way} and {training.lora_scale:g}, as here",
        )
    return run.load_result(explainer.config)


def _given(reader: Reader | None, training: Training) -> Reader | None:
    """The parts of an earlier run's reader that this one does not train."""
    if reader is None:
        return None
    own = {"low_rank": ("down", "up")}
    taken = {name for part in training.reader_parts for name in own.get(part, (part,))}
    left = {name: part for name, part in reader.given.items() if name not in taken}
    return Reader(**left) if left else None
