"""One entry to every task that makes ground truth."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfx import data as own
from selfx.errors import SelfxError
from selfx.progress import silent
from selfx.tasks.ablation import Ablating, trace_ablation
from selfx.tasks.blocks import Progress
from selfx.tasks.contrast import Contrast, trace_contrast
from selfx.tasks.describing import trace_features
from selfx.tasks.describing_settings import Describing
from selfx.tasks.patching import Patching, trace_patching
from selfx.tasks.reading import trace_reading
from selfx.tasks.reading_settings import Reading
from selfx.tasks.schema import ABLATION, CONTRAST, FEATURES, PATCHING, READING
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of ground truth.

    Attributes:
      trace: makes it.
      options: the class of its settings, all with a default.
      own_data: the data that comes with selfx.
    """

    trace: Callable[..., dict[str, Any]]
    options: type
    own_data: Callable[[], Path]


TASKS = {
    PATCHING: Task(trace_patching, Patching, own.facts_path),
    ABLATION: Task(trace_ablation, Ablating, own.questions_path),
    FEATURES: Task(trace_features, Describing, own.text_path),
    READING: Task(trace_reading, Reading, own.text_path),
    CONTRAST: Task(trace_contrast, Contrast, own.facts_path),
}


def check_task(task: str) -> None:
    """Raises SelfxError where there is no such task."""
    if task not in TASKS:
        near = difflib.get_close_matches(task, TASKS, 1)
        raise SelfxError(
            f"task {task!r}",
            expected=f"one of {', '.join(TASKS)}",
            hint=f"did you mean {near[0]}?" if near else "",
        )


def trace(
    task: str,
    target: LanguageModel,
    out: str | Path,
    *,
    data: str | Path | None = None,
    limit: int = 2000,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Any]:
    """What `trace.json` says of the trace in `out`, made, completed, or found finished.

    Args:
      task: a name in `TASKS`.
      target: the model to experiment on.
      out: the trace folder.
      data: facts, questions or texts, a file or a hub id; None takes those that come with selfx.
      limit: examples to keep, both splits together.
      seed: decides every draw.
      progress: called with (examples, limit, a note).
      **options: the task's own settings, as the class of its options names them.

    Raises:
      SelfxError: an unknown task or option, bad data, or a folder that holds another trace.
    """
    check_task(task)
    _check_options(task, options)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 2:
        raise SelfxError(f"limit={limit!r}", expected="a whole number of at least 2")
    chosen = TASKS[task]
    return chosen.trace(
        target,
        Path(out),
        chosen.options(**options),
        data=chosen.own_data() if data is None else data,
        limit=limit,
        seed=seed,
        progress=progress,
    )


def _check_options(task: str, options: dict[str, Any]) -> None:
    """Raises SelfxError for an option that the task lacks or that is of another type."""
    known = {field.name: field.default for field in dataclasses.fields(TASKS[task].options)}
    for name, value in options.items():
        if name not in known:
            raise SelfxError(f"option {name!r} of {task}", expected=f"one of {', '.join(known)}")
        wanted = float if isinstance(known[name], float) else type(known[name])
        good = isinstance(value, (int, float) if wanted is float else wanted)
        if not good or isinstance(value, bool):
            raise SelfxError(f"{name}={value!r}", expected=f"a value like {known[name]!r}")
