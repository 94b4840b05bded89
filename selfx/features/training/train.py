"""Dictionaries trained on a model's activations: from a text to a run folder, resumable.

config.json     the settings, the model's hash, the text's hash
metrics.jsonl   one object a logged step, with a row for every dictionary
tensorboard/    the same for TensorBoard
checkpoints/    orbax: dictionaries, optimiser, the buffer of activations, step
sae/            the results in SAELens' layout, a folder for each, written last

Called again, a run goes on where it was stopped, to the same bits: the order of the text is a
function of seed and step, and the buffer is part of the checkpoint. Asked to stop, it saves first.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import selfx
from selfx.checkpoint import Checkpoints, Restored, checkpoints
from selfx.features.dictionaries.sae import Origin
from selfx.features.dictionaries.save import save_saelens
from selfx.features.training.grid import Metrics
from selfx.features.training.optimise import Moment, blank, moments, saes, summary
from selfx.features.training.packing import Packed
from selfx.features.training.settings import SaeTraining
from selfx.features.training.stream import Stream, source, stream
from selfx.logs import Logs
from selfx.preemption import Asked, Preempted, preemptible
from selfx.progress import Report, silent
from selfx.run_folder import RunFolder
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` did: the run folder, its steps, and how each dictionary stood at the end.

    Attributes:
      path: of the run folder.
      steps: of the whole run.
      resumed_at: the step that this call started from.
      rows: `sae` (its name), `fvu`, `l0`, `loss`, `dead`, over the last logged steps.
      seconds: what this call took.
    """

    path: Path
    steps: int
    resumed_at: int
    rows: list[dict[str, Any]]
    seconds: float


def train(
    lm: LanguageModel,
    text: Packed,
    out: Path,
    training: SaeTraining = SaeTraining(),  # noqa: B008 (frozen)
    *,
    fresh: bool = False,
    save_every: int = 500,
    log_every: int = 50,
    wandb: str = "",
    report: Report = silent,
) -> Trained:
    """Trains a grid of dictionaries on a model's activations and leaves them in `out`.

    Args:
      lm: the model to read.
      text: what it reads, as `selfx.features.training.packing.pack` returns it.
      out: the run folder.
      training: the settings.
      fresh: forget what `out` holds of an earlier run.
      save_every: steps between checkpoints.
      log_every: steps between lines of metrics.jsonl; a checkpoint adds one, so that no line's mean
        reaches back before the step that a resumed run starts from.
      wandb: a project of Weights & Biases to log to as well; empty is none.
      report: told of progress.

    Raises:
      SelfxError: settings out of range, too little text, another run in `out`.
      Preempted: it was asked to stop, and has saved.
    """
    training.check()
    began = time.monotonic()
    read = source(lm.model, training.site, training.layers, training.out_site)
    size, batch = training.buffer, training.batch_size
    batches = stream(read, text, rows=training.rows, size=size, batch=batch, seed=training.seed)
    run = SaeRun(Path(out))
    record = _record(lm, text, training)
    run.open(record, fresh)
    with checkpoints(run.checkpoints) as saved:
        begin = _begin(batches, training, saved)
        start, log = begin.step, run.lines(begin.step)
        with Logs(run.path, wandb=wandb, config=record) as logs, preemptible() as asked:
            loop = _Loop(batches, training, saved, run, log, logs, save_every, log_every)
            last = loop.go(begin, asked, report)
    origin = Origin("selfx", model=lm.name, bos=text.bos is not None, context=text.tokens.shape[1])
    rows = json.loads(loop.log[-1])["saes"]
    l0 = {row["sae"]: row["l0"] for row in rows}
    for name, sae in saes(last.state, training, origin).items():
        own = dataclasses.replace(origin, l0=l0[name])
        save_saelens(dataclasses.replace(sae, origin=own), run.result / name)
    return Trained(run.path, training.steps, start, rows, time.monotonic() - began)


class SaeRun(RunFolder):
    """A run folder's paths."""

    KEYS = frozenset({"sae_training"})
    RESULT = "sae"


@dataclasses.dataclass
class _Loop:
    """The steps of a run, with checkpoints, log and progress on the way."""

    batches: Stream
    training: SaeTraining
    saved: Checkpoints
    run: SaeRun
    log: list[str]
    logs: Logs
    save_every: int
    log_every: int

    def go(self, begin: Restored[Moment], asked: Asked, report: Report) -> Moment:
        """The moment after the last step."""
        last, start, total = begin.state, begin.step, self.training.steps
        began, note, recent = time.monotonic(), "", _unlogged(begin.extra)
        steps = moments(self.batches, self.training, last if start else None, start)
        for done, (last, metrics) in enumerate(steps, start + 1):
            recent.append(metrics)
            stopping = asked()
            saving = done % self.save_every == 0 or done == total
            if saving or done % self.log_every == 0:
                speed = (done - start) * self.training.batch_size / (time.monotonic() - began)
                note = f"{self._log(done, recent)}, {speed:.0f} tokens/s"
                recent = []
            report(done, total, note)
            if saving or stopping:
                self.run.save(self.log, self.saved, last, done, {"recent": _plain(recent)})
            if stopping and done < total:
                raise Preempted
        return last

    def _log(self, done: int, recent: list[Metrics]) -> str:
        """Adds a line, here and in the logs; the same in words."""
        rows = summary(self.training, recent)
        line = {"step": done, "tokens": done * self.training.batch_size, "saes": rows}
        self.log.append(json.dumps(line))
        names = [key for key in rows[0] if key != "sae"]
        self.logs(done, {f"{key}/{row['sae']}": float(row[key]) for key in names for row in rows})
        fvu, l0, dead = (_span([row[key] for row in rows]) for key in ("fvu", "l0", "dead"))
        return f"FVU {fvu}, L0 {l0}, dead {dead}"


def _begin(batches: Stream, training: SaeTraining, saved: Checkpoints) -> Restored[Moment]:
    """The moment to go on from; a blank one before the first step."""
    blanked = blank(batches, training)
    return saved.restore(blanked) if saved.latest() else Restored(blanked, 0, {})


def _plain(recent: list[Metrics]) -> list[Any]:
    """Metrics that no line has yet, for the checkpoint of a run that is asked to stop.

    With them the next line's mean is the one it would have been.
    """
    return jax.tree.map(lambda x: x.tolist(), jax.device_get(recent))


def _unlogged(extra: dict[str, Any]) -> list[Metrics]:
    """Those metrics as they were: JSON has every float32 exactly."""
    return [
        {
            width: {key: jnp.asarray(value, jnp.float32) for key, value in row.items()}
            for width, row in one.items()
        }
        for one in extra.get("recent", [])
    ]


def _span(values: list[Any]) -> str:
    """The least and the most of what dictionaries have."""
    low, high = (f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _record(lm: LanguageModel, text: Packed, training: SaeTraining) -> dict[str, Any]:
    """What config.json holds: everything that decides the result."""
    record = {
        "version": selfx.__version__,
        "model": lm.name,
        "model_hash": lm.hash,
        "text": {"digest": text.digest, "rows": len(text), "context": text.tokens.shape[1]},
        "sae_training": dataclasses.asdict(training),
    }
    return json.loads(json.dumps(record))
