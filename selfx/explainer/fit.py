"""Training: from trace folders to a run folder, resumable at any moment to the same bits."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import selfx
from selfx.checkpoint import Checkpoints, checkpoints
from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.batches import Plan
from selfx.explainer.injection import Scaling
from selfx.explainer.prompts import check_room, make_prompter
from selfx.explainer.run import Run, Training, digest
from selfx.explainer.step import State, init_state, make_step
from selfx.progress import Report, silent
from selfx.tasks.example import Example
from selfx.tasks.store import load_examples, load_trace
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` did: the run folder, its steps, and whether this call did any of them."""

    path: Path
    steps: int
    resumed_at: int
    loss: float | None
    seconds: float


def fit(
    explainer: LanguageModel,
    data: Sequence[Path],
    out: Path,
    training: Training = Training(),  # noqa: B008 (frozen)
    *,
    fresh: bool = False,
    save_every: int = 50,
    log_every: int = 10,
    report: Report = silent,
) -> Fitted:
    """Trains adapters on the `train` split of every trace and leaves them in `out`.

    Called again it goes on from the newest checkpoint, as if it had never stopped.

    Args:
      explainer: the model to adapt; its weights are not touched.
      data: trace folders.
      out: the run folder.
      training: the settings.
      fresh: forget what `out` holds of an earlier run.
      save_every: steps between checkpoints.
      log_every: steps between lines of metrics.jsonl; a checkpoint adds one, so that no line's mean
        reaches back before the step that a resumed run starts from.
      report: told of progress.

    Raises:
      SelfxError: no data, settings out of range, vectors of another width, questions longer than
        the explainer's context, another run in `out`.
    """
    training.check()
    data = [Path(folder) for folder in data]
    examples = [example for folder in data for example in load_examples(folder, "train")]
    _check_examples(examples, explainer, data, training.scaling)
    prompter = make_prompter(explainer.tokenizer, explainer.eos_ids, training.style)
    width = explainer.config.d_model
    size, seed = training.batch_size, training.seed
    plan = Plan(examples, prompter, d_model=width, batch_size=size, seed=seed)
    check_room(plan.longest, explainer.config)
    run = Run(Path(out))
    run.open(_record(explainer, data, training), fresh)
    total = max(1, round(training.epochs * plan.steps_per_epoch))
    began = time.monotonic()
    with checkpoints(run.checkpoints) as saved:
        state, start, log = _begin(explainer, training, total, saved, run)
        loop = _Loop(explainer, training, plan, total, saved, run, log, save_every, log_every)
        loop.loss = json.loads(log[-1])["loss"] if log else None
        state = loop.go(state, start, report)
    run.save_adapter(state.adapters, training.alpha, explainer.name)
    return Fitted(run.path, total, start, loop.loss, time.monotonic() - began)


def _begin(
    explainer: LanguageModel, training: Training, total: int, saved: Checkpoints, run: Run
) -> tuple[State, int, list[str]]:
    """The state to start from, its step, and the lines of the log up to there."""
    adapters = lora.init(
        explainer.config,
        rank=training.rank,
        alpha=training.alpha,
        key=jax.random.key(training.seed),
    )
    state = init_state(adapters, training.optimization.build(total))
    start = saved.latest()
    if start:
        state = saved.restore(state)
    return state, start, run.lines(start)


@dataclasses.dataclass
class _Loop:
    """The steps from `start` to `total`, with checkpoints, log and progress on the way."""

    explainer: LanguageModel
    training: Training
    plan: Plan
    total: int
    saved: Checkpoints
    run: Run
    log: list[str]
    save_every: int
    log_every: int
    loss: float | None = None

    def go(self, state: State, start: int, report: Report) -> State:
        """The state after the last step."""
        settings = self.training
        optimizer = settings.optimization.build(self.total)
        step = make_step(optimizer, settings.scaling, settings.strength, settings.remat)
        rate = settings.optimization.rate(self.total)
        began, tokens, recent = time.monotonic(), 0, []
        for index in range(start, self.total):
            batch = self.plan.batch(index)
            state, metrics = step(state, self.explainer.model, batch)
            recent.append(metrics)
            tokens += batch.n_tokens
            done = index + 1
            saving = done % self.save_every == 0 or done == self.total
            if saving or done % self.log_every == 0:
                self._log(done, recent, float(rate(index)))
                recent = []
            speed = tokens / max(time.monotonic() - began, 1e-9)
            loss, compiled = float(metrics["loss"]), step._cache_size()  # type: ignore[attr-defined]
            report(done, self.total, f"loss {loss:.3f}, {speed:.0f} tokens/s, {compiled} compiled")
            if saving:
                self.run.save(self.log, self.saved, state, done)
        return state

    def _log(self, done: int, recent: list[dict[str, Any]], rate: float) -> None:
        mean = {name: sum(float(m[name]) for m in recent) / len(recent) for name in recent[0]}
        self.loss = mean["loss"]
        epoch = done / self.plan.steps_per_epoch
        line = {"step": done, "epoch": round(epoch, 4), **mean, "learning_rate": rate}
        self.log.append(json.dumps(line))


def _record(explainer: LanguageModel, data: Sequence[Path], training: Training) -> dict[str, Any]:
    """What config.json holds: everything that decides the result."""
    traces = [
        {"folder": folder.name, "digest": digest(folder)}
        | {key: load_trace(folder).get(key) for key in ("task", "target", "target_hash")}
        for folder in data
    ]
    return {
        "version": selfx.__version__,
        "explainer": explainer.name,
        "explainer_hash": explainer.hash,
        "traces": traces,
        "training": dataclasses.asdict(training),
    }


def _check_examples(
    examples: list[Example], explainer: LanguageModel, data: Sequence[Path], scaling: Scaling
) -> None:
    if not examples:
        raise SelfxError(
            f"no training examples in {', '.join(map(str, data)) or 'no folder'}",
            expected="trace folders with train-*.parquet",
            hint="selfx trace TASK --out DIR",
        )
    check_vectors(examples, explainer, scaling)


def check_vectors(
    examples: Sequence[Example], explainer: LanguageModel, scaling: Scaling = "raw"
) -> None:
    """Raises SelfxError where vectors are not as wide, or from as deep, as the explainer is."""
    widths = {example.vector.shape[0] for example in examples if example.vector is not None}
    wrong = sorted(widths - {explainer.config.d_model})
    if wrong:
        raise SelfxError(
            f"vectors of width {wrong[0]} for an explainer of width {explainer.config.d_model}",
            expected="a target and an explainer of one width: there are no projections yet",
            hint="trace with a target of the explainer's width",
        )
    deep = explainer.config.n_layers
    lost = [e for e in examples if e.vector is not None and not 0 <= e.layer < deep]
    if scaling == "layer" and lost:
        raise SelfxError(
            f"example {lost[0].id} with a vector of layer {lost[0].layer}",
            expected=f"a layer from 0 to {deep - 1} of the explainer to add it after",
            hint="let vectors replace the placeholder's embedding: --scaling matched",
        )
