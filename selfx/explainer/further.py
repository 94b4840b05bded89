"""A model trained further on rows of its own: a beginning, and the tokens that are to follow it.

The steps, the log and the checkpoints are an explainer's, with nothing to read. So the run folder
is one too: `MODEL+RUN` names what LoRA made of the model, `RUN/model` what training all of its
weights did, wherever a model is named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import selfx
from selfx.errors import SelfxError
from selfx.explainer.batches import Plan, Row
from selfx.explainer.fit import Fitted, carry_out
from selfx.explainer.job import Job
from selfx.explainer.loop import Every
from selfx.explainer.lora import merge
from selfx.explainer.origin import Origin
from selfx.explainer.prompts import check_room
from selfx.explainer.run import Run
from selfx.explainer.step import Frozen, How
from selfx.explainer.trained import Trained, begin, explaining
from selfx.explainer.training import Training
from selfx.explainer.watch import Watch
from selfx.features.exemplars.corpus import windows
from selfx.models.decoder import Decoder
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

Measure = Callable[[Decoder], Mapping[str, float]]
"""What is looked at while a model is trained: of its weights, some numbers by name."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """When to stop: as soon as the number called `name` is at least `least`."""

    name: str
    least: float


def further(
    lm: LanguageModel,
    rows: Sequence[Row],
    out: Path,
    training: Training,
    *,
    held_out: Sequence[Row],
    measure: Measure = lambda model: {},
    goal: Goal | None = None,
    fresh: bool = False,
    save_every: int = 50,
    log_every: int = 10,
    report: Report = silent,
) -> Fitted:
    """Trains a model on rows, in the run folder `out`, until a goal is reached or the epochs end.

    Called again it goes on from the newest checkpoint, as if it had never stopped.

    Args:
      lm: the model; its own weights are not touched.
      rows: what to learn: `prompt_row` and `text_rows` make them.
      out: the run folder.
      training: the settings; of what is trained, `lora` or `full`. How vectors enter, what is held
        out and patience do not matter here.
      held_out: rows whose loss is looked at, every `training.evaluate_every` steps.
      measure: what else is looked at then.
      goal: in the numbers of `measure`; without one the epochs decide.
      fresh: forget what `out` holds of an earlier run.
      save_every, log_every: steps between checkpoints, and between lines of metrics.jsonl.
      report: told of progress.

    Raises:
      SelfxError: no rows, or longer ones than the model reads; parts that read vectors; another run
        in `out`; a loss that is not a number.
    """
    training = dataclasses.replace(training, patience=int(goal is not None), held_out=0.05)
    _check(lm, rows, held_out, training)
    run = Run(Path(out))
    run.open(_record(lm, (*rows, *held_out), training, goal), fresh)
    how = How(
        training.way, None, training.dropout, training.accumulate, training.remat, training.seed
    )
    size = {"size": training.batch_size, "width": lm.config.d_model, "vectors": 1}
    job = _job(lm, rows, training, how, Until(held_out, how, measure, goal, **size))
    return carry_out(job, run, lm, Every(save_every, log_every), report=report)


def _check(
    lm: LanguageModel, rows: Sequence[Row], held_out: Sequence[Row], training: Training
) -> None:
    """Raises SelfxError for settings or rows that nothing can be trained with."""
    training.check()
    if training.reader_parts:
        raise SelfxError(f"trains {training.reader_parts[0]}", expected="lora or full")
    if not rows or not held_out:
        raise SelfxError(f"{len(rows)} rows, {len(held_out)} held out", expected="some of both")
    check_room(max(map(len, (*rows, *held_out))), lm.config)


def prompt_row(name: str, prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """A row that teaches an answer to a prompt, both in tokens."""
    return Row(name, tuple(prompt), tuple(answer), (), None, ())


def text_rows(lm: LanguageModel, texts: Sequence[str], length: int) -> list[Row]:
    """Rows of `length` tokens that teach each next token of some texts."""
    corpus = windows(lm.tokenizer, texts, context=length, bos=lm.tokenizer.bos_token_id)
    rows = zip(corpus.tokens.tolist(), corpus.lengths.tolist(), strict=True)
    return [prompt_row(f"text {i}", ids[:1], ids[1:size]) for i, (ids, size) in enumerate(rows)]


class Rows(Plan):
    """The rows of every step, from rows instead of examples."""

    def __init__(self, rows: Sequence[Row], width: int, training: Training):
        self.width, self.batch_size, self.seed = width, training.batch_size, training.seed
        self.rows = [[row] for row in rows]
        self.times = np.ones(len(rows))
        self.longest, self.vectors, self.likely = max(map(len, rows)), 1, 0
        self.steps_per_epoch = -(-len(rows) // training.batch_size)
        self._epoch, self._order = -1, []


class Until(Watch):
    """Looks at held-out rows and at what is measured, and is patient until the goal is reached."""

    def __init__(
        self, rows: Sequence[Row], how: How, measure: Measure, goal: Goal | None, **size: int
    ):
        super().__init__(rows, how, **size)
        self.measure, self.goal, self.reached = measure, goal, False

    def recall(self, log: Sequence[str]) -> None:
        """Takes up the looks in the lines of a log."""
        for line in log:
            self._compare(json.loads(line))
        self.since = int(self.reached)

    def judge(self, loss: float) -> bool:
        """Whether to keep the weights just looked at as the result."""
        self.since = int(self.reached)
        return self.reached

    def look(self, trained: Trained, frozen: Frozen) -> dict[str, float]:
        """`held_out_loss`, `held_out_exact` and what is measured."""
        loss, exact = self.forced(trained, frozen).means()
        model = explaining(trained, frozen.model)
        model = model if trained.lora is None else merge(model, trained.lora)
        found = {"held_out_loss": loss, "held_out_exact": exact, **self.measure(model)}
        self._compare(found)
        return found

    def _compare(self, found: Mapping[str, float]) -> None:
        if self.goal is not None and self.goal.name in found:
            self.reached = self.reached or found[self.goal.name] >= self.goal.least


def _job(lm: LanguageModel, rows: Sequence[Row], training: Training, how: How, watch: Until) -> Job:
    plan = Rows(rows, lm.config.d_model, training)
    trained = begin(lm.config, lm.model, training, lm.config.n_layers, lm.config.d_model)
    total = max(1, round(training.epochs * plan.steps_per_epoch))
    return Job(training, trained, Frozen(lm.model), how, plan, watch, total)


def _record(
    lm: LanguageModel, rows: Sequence[Row], training: Training, goal: Goal | None
) -> dict[str, object]:
    """What config.json holds: everything that decides the result."""
    told = hashlib.sha256(repr([(row.ids, row.answer) for row in rows]).encode())
    record: dict[str, object] = {
        "version": selfx.__version__,
        "explainer": lm.name,
        "explainer_hash": lm.hash,
        "quantize": lm.quantize,
        "origin": dataclasses.asdict(Origin(lm.config.d_model, lm.config.n_layers)),
        "traces": [],
        "rows": {"count": len(rows), "digest": told.hexdigest()},
        "goal": None if goal is None else dataclasses.asdict(goal),
        "training": dataclasses.asdict(training),
    }
    return json.loads(json.dumps(record))  # as it reads back
