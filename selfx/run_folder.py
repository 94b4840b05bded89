"""The folder of a run that trains something: made, told from others, gone on with, cleared.

config.json     everything that decides the result
metrics.jsonl   one object a logged step
checkpoints/    orbax: all that a resumed run needs
tensorboard/    the same log as events, for TensorBoard
wandb/          what Weights & Biases keeps here, where it was asked for
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from selfx.checkpoint import Checkpoints
from selfx.errors import SelfxError
from selfx.files import read_json, unwritable, write_json, write_text


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run folder's paths, and what is done there whatever is trained.

    Attributes:
      path: of the folder.
      KEYS: what `config.json` has; that of a model, or of another kind of run, has not.
      RESULT: the name of the folder for what was trained.
    """

    path: Path
    KEYS: ClassVar[frozenset[str]]
    RESULT: ClassVar[str]

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """The log of training."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Orbax's folder."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The log as events."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """What Weights & Biases keeps, and which run of its this is."""
        return self.path / "wandb"

    @property
    def result(self) -> Path:
        """What was trained, written last."""
        return self.path / self.RESULT

    def exists(self) -> bool:
        """Whether a run's settings are there."""
        if not self.config.exists():
            return False
        found = read_json(self.config)
        return isinstance(found, dict) and found.keys() >= self.KEYS

    def open(self, record: dict[str, Any], fresh: bool) -> None:
        """Makes the folder, or checks that it is of the same run; `fresh` empties it first.

        Raises:
          SelfxError: the folder holds a run of other settings, or something else.
        """
        if not self.exists():
            must_be_free(self.path)
        elif fresh:
            self._clear()
        else:
            must_match(self.path, read_json(self.config), record)
        if not self.config.exists():
            write_json(self.config, record)

    def lines(self, step: int) -> list[str]:
        """The lines of the log up to `step`."""
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        return [line for line in lines if _step_of(line) <= step]

    def save(
        self,
        log: Sequence[str],
        saved: Checkpoints,
        state: Any,
        step: int,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """The log first: a line without its checkpoint is dropped on resuming, not the reverse."""
        write_text(self.metrics, "\n".join(log) + "\n")
        saved.save(state, step, extra)

    def _clear(self) -> None:
        """Removes what a run writes, and nothing else; the settings last, in case of a kill."""
        try:
            for folder in (self.checkpoints, self.tensorboard, self.wandb, self.result):
                if folder.exists():
                    shutil.rmtree(folder)
            for file in (self.metrics, self.config):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error


def _step_of(line: str) -> float:
    """The step of a log line; a line cut short by a kill counts as after everything."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def must_be_free(path: Path) -> None:
    """Raises SelfxError where a new run would mix with other files; hidden ones do not count."""
    if path.exists() and not path.is_dir():
        raise SelfxError(f"{path} is a file", expected="a folder", hint="another --out")
    if path.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise SelfxError(f"{path} holds files that no run wrote", hint="another --out")


def must_match(path: Path, old: Any, new: dict[str, Any]) -> None:
    """Raises SelfxError where the settings in the folder, `old`, are not those of now, `new`."""
    differing = [
        f"{name}: {before!r} there, {after!r} now"
        for name, before, after in _differences(old, new, "")
    ]
    if differing:
        raise SelfxError(
            f"{path} holds another run:\n    " + "\n    ".join(differing),
            hint="another --out, or --fresh to start over",
        )


def _differences(old: Any, new: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        nested = (_differences(old.get(k), new.get(k), f"{name}.{k}".lstrip(".")) for k in keys)
        return [difference for several in nested for difference in several]
    return [] if old == new or is_later(old, new) else [(name, old, new)]


def is_later(old: Any, new: Any) -> bool:
    """Whether a setting is one that an earlier version had not, and asks for nothing."""
    return old is None and new in (False, 0, "", [], ())
