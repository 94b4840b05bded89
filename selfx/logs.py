"""Where a run's numbers go while it runs, beside `metrics.jsonl`: TensorBoard, Weights & Biases.

Neither is needed to resume, and no step shows twice after it: TensorBoard drops what was written
from the first new step on; Weights & Biases takes steps in rising order alone, and those that come
again are the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.files import write_text
from selfx.tensorboard import Events


class Logs:
    """Event files in `folder/tensorboard`, and a run of Weights & Biases where a project is named.

    Use it as `with Logs(folder) as logs: logs(step, {"loss": 0.3})`.

    Args:
      folder: the run folder.
      wandb: the project; empty is without. A run that is resumed keeps its id, which is kept in
        `folder/wandb`. `WANDB_MODE=offline` and the other variables are wandb's own.
      config: what wandb shows as the run's settings.

    Raises:
      SelfxError: wandb is asked for and not installed, or does not let this run in.
    """

    def __init__(self, folder: Path, *, wandb: str = "", config: Mapping[str, Any] | None = None):
        self._events = Events(Path(folder) / "tensorboard")
        self._wandb = _wandb_run(Path(folder), wandb, dict(config or {})) if wandb else None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step, on the disk when this returns.

        Raises:
          SelfxError: the disk is full or the folder cannot be written.
        """
        numbers = {name: float(value) for name, value in values.items()}
        self._events(step, numbers)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(error is not None))


def _wandb_run(folder: Path, project: str, config: dict[str, Any]) -> Any:
    """The folder's run in wandb, new or gone on with."""
    try:
        from wandb import (
            Error,
            init,
        )  # a folder called wandb can be imported, but has no such names
    except ImportError as error:
        raise SelfxError(f"wandb cannot be used: {error}", hint="pip install wandb") from error
    kept = folder / "wandb" / "id"
    if not kept.exists():
        write_text(kept, uuid.uuid4().hex[:8])
    settings = {"project": project, "id": kept.read_text(), "name": folder.name, "config": config}
    try:
        return init(**settings, dir=str(folder), resume="allow")
    except Error as error:
        raise SelfxError(
            f"wandb does not open a run of project {project!r}: {error}",
            hint="wandb login, or WANDB_MODE=offline to send it later",
        ) from error
