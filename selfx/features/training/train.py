"""Dictionaries trained on a model's activations: from a text to a run folder, resumable.

config.json     the settings, the model's hash, the text's hash
metrics.jsonl   one object a logged step, with a row for every dictionary
checkpoints/    orbax: dictionaries, optimiser, the buffer of activations, step
sae/            the results in SAELens' layout, a folder for each, written last

Called again, a run goes on where a kill stopped it, to the same bits: the order of the text is a
function of seed and step, and the buffer is part of the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import selfx
from selfx.checkpoint import Checkpoints, checkpoints
from selfx.features.dictionaries.sae import Origin
from selfx.features.dictionaries.save import save_saelens
from selfx.features.training.grid import Metrics
from selfx.features.training.optimise import Moment, blank, moments, saes, summary
from selfx.features.training.packing import Packed
from selfx.features.training.settings import SaeTraining
from selfx.features.training.stream import Stream, source, stream
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
      report: told of progress.

    Raises:
      SelfxError: settings out of range, too little text, another run in `out`.
    """
    training.check()
    began = time.monotonic()
    read = source(lm.model, training.site, training.layers, training.out_site)
    size, batch = training.buffer, training.batch_size
    batches = stream(read, text, rows=training.rows, size=size, batch=batch, seed=training.seed)
    run = SaeRun(Path(out))
    run.open(_record(lm, text, training), fresh)
    with checkpoints(run.checkpoints) as saved:
        loop = _Loop(batches, training, saved, run, save_every, log_every)
        last, start = loop.go(report)
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
    save_every: int
    log_every: int
    log: list[str] = dataclasses.field(default_factory=list)

    def go(self, report: Report) -> tuple[Moment, int]:
        """The moment after the last step, and the step that this call started from."""
        last = blank(self.batches, self.training)
        start, total = self.saved.latest(), self.training.steps
        if start:
            last = self.saved.restore(last)
        self.log = self.run.lines(start)
        began, note = time.monotonic(), ""
        recent: list[Metrics] = []
        steps = moments(self.batches, self.training, last if start else None, start)
        for done, (last, metrics) in enumerate(steps, start + 1):
            recent.append(metrics)
            saving = done % self.save_every == 0 or done == total
            if saving or done % self.log_every == 0:
                speed = (done - start) * self.training.batch_size / (time.monotonic() - began)
                note = f"{self._log(done, recent)}, {speed:.0f} tokens/s"
                recent = []
            report(done, total, note)
            if saving:
                self.run.save(self.log, self.saved, last, done)
        return last, start

    def _log(self, done: int, recent: list[Metrics]) -> str:
        """Adds a line; the same in words."""
        rows = summary(self.training, recent)
        line = {"step": done, "tokens": done * self.training.batch_size, "saes": rows}
        self.log.append(json.dumps(line))
        fvu, l0, dead = (_span([row[key] for row in rows]) for key in ("fvu", "l0", "dead"))
        return f"FVU {fvu}, L0 {l0}, dead {dead}"


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
