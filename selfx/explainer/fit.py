"""Training: from trace folders to a run folder, resumable at any moment to the same bits."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import selfx
from selfx.checkpoint import Checkpoints, Restored, checkpoints
from selfx.explainer.job import Job, prepare
from selfx.explainer.loop import Every, Loop
from selfx.explainer.mixture import Mixture, check_target, read_mixture
from selfx.explainer.optimization import Optimization
from selfx.explainer.run import Run, digest
from selfx.explainer.step import How, State, init_state, make_step
from selfx.explainer.training import Training
from selfx.files import read_json
from selfx.logs import Logs
from selfx.preemption import preemptible
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` did: the run folder, its steps, where it went on from, its last loss and lift."""

    path: Path
    steps: int
    resumed_at: int
    loss: float | None
    seconds: float
    lift: float | None = None


def fit(
    explainer: LanguageModel,
    data: Sequence[Path],
    out: Path,
    training: Training = Training(),  # noqa: B008 (frozen)
    *,
    times: Sequence[float] = (),
    fresh: bool = False,
    save_every: int = 50,
    log_every: int = 10,
    wandb: str = "",
    report: Report = silent,
) -> Fitted:
    """Trains on the `train` split of every trace and leaves the result in `out`.

    Called again it goes on from the newest checkpoint, as if it had never stopped.

    Args:
      explainer: the model to train, or to adapt; its own weights are not touched.
      data: trace folders.
      out: the run folder.
      training: the settings.
      times: how often an epoch sees each example of each trace; none given is once.
      fresh: forget what `out` holds of an earlier run.
      save_every: steps between checkpoints.
      log_every: steps between lines of metrics.jsonl; a checkpoint adds one, so that no line's mean
        reaches back before the step that a resumed run starts from.
      wandb: a project of Weights & Biases to log to as well; "" for none.
      report: told of progress.

    Raises:
      SelfxError: no data, settings out of range, vectors of another width, a trace of other weights
        by the explainer's name, questions longer than its context, another run in `out`, a loss
        that is not a number.
    """
    training.check()
    mixture = read_mixture(
        [Path(folder) for folder in data], times, explainer.config, training.soften
    )
    check_target(mixture.records, explainer)
    job = prepare(explainer, mixture, training)
    run = Run(Path(out))
    run.open(_as_begun(run, _record(explainer, mixture, training)), fresh)
    every = Every(save_every, log_every)
    return carry_out(job, run, explainer, every, wandb=wandb, report=report)


def carry_out(
    job: Job,
    run: Run,
    explainer: LanguageModel,
    every: Every,
    *,
    wandb: str = "",
    report: Report = silent,
) -> Fitted:
    """Does a job in its run folder, from the newest checkpoint on, and leaves the result there."""
    began = time.monotonic()
    with (
        checkpoints(run.checkpoints) as saved,
        preemptible() as asked,
        Logs(run.path, wandb=wandb) as logs,
    ):
        optimizer = job.training.optimization.build(job.total)
        begin = _latest(saved, init_state(job.trained, optimizer))
        start = begin.step
        loop = Loop(
            step=_step(make_step, job.training.optimization, job.total, job.how),
            job=job,
            saved=saved,
            run=run,
            logs=logs,
            asked=asked,
            every=every,
            log=run.lines(start),
        )
        trained = loop.go(begin, report)
    if not run.adapter.exists():
        run.save_result(trained, job.frozen.reader, job.training, explainer)
    seconds = time.monotonic() - began
    return Fitted(run.path, loop.steps, start, loop.last("loss"), seconds, loop.last("lift"))


@functools.lru_cache(maxsize=2)
def _step(make: Callable[..., Any], settings: Optimization, total: int, how: How) -> Any:
    """The compiled step: runs that follow one another with the same settings share it."""
    return make(settings.build(total), how)


def _latest(saved: Checkpoints, state: State) -> Restored[State]:
    """The newest checkpoint that can be read; the state given, at step 0, without any."""
    return saved.restore(state) if saved.latest() else Restored(state, 0, {})


def _record(explainer: LanguageModel, mixture: Mixture, training: Training) -> dict[str, Any]:
    """What config.json holds: everything that decides the result."""
    traces = [
        {"folder": folder.name, "digest": digest(folder)}
        | {key: record.get(key) for key in ("task", "target", "target_hash")}
        | _states(record)
        for folder, record in zip(mixture.folders, mixture.records, strict=True)
    ]
    record = {
        "version": selfx.__version__,
        "explainer": explainer.name,
        "explainer_hash": explainer.hash,
        "quantize": explainer.quantize,
        "origin": dataclasses.asdict(mixture.origin),
        "traces": traces,
        "times": list(mixture.shares),
        "training": dataclasses.asdict(training),
        "start": Run(Path(training.start)).digest() if training.start else "",
    }
    return json.loads(json.dumps(record))  # as it reads back


def _states(record: dict[str, Any]) -> dict[str, str]:
    """Which of the target's states a trace of input ablation shows, if any."""
    states = (record.get("settings") or {}).get("states")
    return {"states": states} if states else {}


def _as_begun(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """The record, with the run that was started from where the folder's own settings have it.

    What that is its digest says; it may have been moved, or be named from another folder.
    """
    if run.exists() and record["start"]:
        old = read_json(run.config)
        if old.get("start") == record["start"]:
            record["training"]["start"] = old["training"].get("start", "")
    return record
