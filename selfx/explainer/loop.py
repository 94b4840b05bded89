"""The steps of a run, with checkpoints, log, looks at held-out examples and progress on the way."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from selfx.checkpoint import Checkpoints, Restored
from selfx.errors import SelfxError
from selfx.explainer.job import Job
from selfx.explainer.run import Run
from selfx.explainer.step import State
from selfx.explainer.trained import Trained
from selfx.logs import Logs
from selfx.preemption import Asked, Preempted
from selfx.progress import Report


@dataclasses.dataclass(frozen=True)
class Every:
    """Steps between checkpoints, and between lines of the log."""

    save: int
    log: int


@dataclasses.dataclass
class Loop:
    """What the steps need, and what they leave.

    Attributes:
      step: as `make_step` compiled it.
      job: what is to be done.
      saved: the checkpoints.
      run: the folder.
      logs: where else numbers go.
      asked: whether to stop, with all saved.
      every: when to save and log.
      log: lines of metrics.jsonl so far.
    """

    step: Callable[..., Any]
    job: Job
    saved: Checkpoints
    run: Run
    logs: Logs
    asked: Asked
    every: Every
    log: list[str]

    def go(self, begin: Restored[State], report: Report) -> Trained:
        """What was trained by the last step, or by the best look where patience decides.

        Raises:
          SelfxError: a loss that is not a number.
          Preempted: it was asked to stop; all is saved.
        """
        job, began = self.job, time.monotonic()
        state, recent = begin.state, list(begin.extra.get("recent", []))
        tokens, told = 0, math.nan
        if job.watch is not None:
            job.watch.recall(self.log)
        for index in range(begin.step, job.total):
            if self._spent():
                break
            batch = job.plan.batch(index)
            state, metrics = self.step(state, job.frozen, batch)
            if recent:  # the step before has ended by now: nothing waits for this one
                told = self._sound(recent[-1], state, index - 1)
            recent.append(metrics)
            tokens += batch.n_tokens
            done, stopping = index + 1, self.asked()
            looking = self._looks(done)
            saving = done % self.every.save == 0 or done == job.total
            if saving or looking or done % self.every.log == 0:
                told = self._sound(metrics, state, index)
                self._write(done, recent, state if looking else None)
                recent = []
            speed = tokens / max(time.monotonic() - began, 1e-9)
            loss = "" if math.isnan(told) else f"loss {told:.3f}, "
            report(done, job.total, f"{loss}{speed:.0f} tokens/s{self._lift()}")
            if saving or stopping or self._spent():
                told = self._sound(metrics, state, index)
                self.run.save(self.log, self.saved, state, done, {"recent": _plain(recent)})
            if stopping:
                raise Preempted(self.asked.signal)
        return self._result(state)

    @property
    def steps(self) -> int:
        """Steps that were logged."""
        return int(json.loads(self.log[-1])["step"]) if self.log else 0

    def last(self, name: str) -> float | None:
        """The newest value of that name in the log."""
        for line in reversed(self.log):
            if name in (found := json.loads(line)):
                return found[name]
        return None

    def _sound(self, metrics: dict[str, jax.Array], state: State, index: int) -> float:
        """The loss of step `index`, once it is known to be a number.

        Raises:
          SelfxError: it is not; the state before it is saved.
        """
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if math.isfinite(loss) and math.isfinite(norm):
            return loss
        good = int(state.step)
        kept = dataclasses.replace(state, sound=jnp.bool_(True))
        self.run.save(self.log, self.saved, kept, good)
        ids = ", ".join(row.id for row in self.job.plan.rows_of(index))
        raise SelfxError(
            f"a loss of {loss} with a gradient of {norm} at step {index + 1}",
            expected="numbers",
            hint=f"a lower --learning-rate, or look at the examples of that step: {ids}; "
            f"the state after step {good} is kept",
        )

    def _write(self, done: int, recent: list[dict[str, Any]], looked: State | None) -> None:
        """A line of the log: means since the last, and a look at held-out rows."""
        mean = {name: sum(float(m[name]) for m in recent) / len(recent) for name in recent[0]}
        rate = self.job.training.optimization.rate(self.job.total)(done - 1)
        line = {"step": done, "epoch": round(done / self.job.plan.steps_per_epoch, 4), **mean}
        line["learning_rate"] = float(rate)
        if looked is not None and self.job.watch is not None:
            line |= self.job.watch.look(looked.trained, self.job.frozen)
            if self.job.watch.judge(line["held_out_loss"]) and self.job.training.patience:
                self.run.keep_best(looked.trained)
        self.log.append(json.dumps(line))
        self.logs(done, {name: value for name, value in line.items() if name != "step"})

    def _looks(self, done: int) -> bool:
        every = self.job.training.evaluate_every
        return self.job.watch is not None and (done % every == 0 or done == self.job.total)

    def _spent(self) -> bool:
        """Whether looks have not become better for as long as patience lasts."""
        patience = self.job.training.patience
        return bool(patience and self.job.watch is not None and self.job.watch.since >= patience)

    def _result(self, state: State) -> Trained:
        if not self.job.training.patience or self.job.watch is None or self.job.watch.since == 0:
            return state.trained
        return self.run.best(state.trained)

    def _lift(self) -> str:
        lift = self.last("lift")
        return "" if lift is None else f", lift {100 * lift:.1f}"


def _plain(recent: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Metrics that no line has yet: with them the next line's mean is what it would have been."""
    return [{name: float(value) for name, value in metrics.items()} for metrics in recent]
