"""Checkpoints of a training run, through orbax: a step is saved whole or not at all."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from selfx.errors import SelfxError
from selfx.files import unwritable

State = TypeVar("State")
"""Any tree of arrays."""


class Checkpoints:
    """The checkpoints of one run: the newest two are kept."""

    def __init__(self, path: Path):
        self.path = path
        keep = ocp.training.preservation_policies.LatestN(2)
        try:
            self._inner = ocp.training.Checkpointer(
                path.absolute(), preservation_policy=keep, cleanup_tmp_directories=True
            )
        except OSError as error:
            raise unwritable(path, error) from error

    def save(self, state: Any, step: int) -> None:
        """Saves the state after `step` steps, unless that step is already there.

        Raises:
          SelfxError: the disk is full or the folder cannot be written.
        """
        if self.latest() == step:
            return
        try:
            self._inner.save_checkpointables(step, {"state": state}, force=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        except ValueError as error:  # how tensorstore says it
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise unwritable(self.path, OSError(errno.ENOSPC, "disk full")) from error

    def latest(self) -> int:
        """The newest step saved, or 0."""
        newest = self._inner.latest
        return 0 if newest is None else int(newest.step)

    def restore(self, like: State) -> State:
        """The newest state, in the shapes and dtypes of `like` and on its devices.

        Raises:
          SelfxError: it cannot be read, or is of another run's shapes.
        """
        abstract = jax.tree.map(_abstract, like)
        try:
            return self._inner.load_checkpointables(self.latest(), {"state": abstract})["state"]
        except (ValueError, KeyError, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise SelfxError(
                f"the checkpoint of step {self.latest()} in {self.path} cannot be read: {why}",
                hint="delete that step's folder to go on from the one before, or use --fresh",
            ) from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._inner.close()


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


@contextlib.contextmanager
def checkpoints(path: Path) -> Iterator[Checkpoints]:
    """The checkpoints under `path`, closed on the way out."""
    opened = Checkpoints(path)
    try:
        yield opened
    except BaseException:
        with contextlib.suppress(Exception):  # closing tells of a failed save a second time
            opened.close()
        raise
    opened.close()
