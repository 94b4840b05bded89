"""Checkpoints of a training run, through orbax: a step is saved whole or not at all.

Beside the arrays lies a note: what else the run wants back, and a digest of every array, by which
bytes that have changed on the disk are noticed. A step that cannot be read costs the steps since
the one before it, not the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from selfx.errors import SelfxError
from selfx.files import unwritable

State = TypeVar("State")
"""Any tree of arrays."""

KEPT = 2
"""Checkpoints of a run: the newest, and one to fall back on."""


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """What a checkpoint held.

    Attributes:
      state: the arrays.
      step: the steps taken until there.
      extra: what was saved with them, as JSON has it.
    """

    state: State
    step: int
    extra: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: the newest two are kept."""

    def __init__(self, path: Path):
        self.path = path
        keep = ocp.training.preservation_policies.LatestN(KEPT)
        try:
            self._inner = ocp.training.Checkpointer(
                path.absolute(), preservation_policy=keep, cleanup_tmp_directories=True
            )
        except OSError as error:
            raise unwritable(path, error) from error

    def save(self, state: Any, step: int, extra: Mapping[str, Any] | None = None) -> None:
        """Saves the state after `step` steps, unless that step is already there.

        Args:
          state: any tree of arrays.
          step: the steps taken.
          extra: small values that JSON has words for: the place in the data, the best loss so far.

        Raises:
          SelfxError: the disk is full or the folder cannot be written.
        """
        if self.latest() == step:
            return
        plain = json.loads(json.dumps(dict(extra or {})))
        note = {"extra": plain, "digests": _digests(state, plain)}
        try:
            self._inner.save_checkpointables(
                step, {"state": state}, force=True, custom_metadata=note
            )
        except OSError as error:
            raise unwritable(self.path, error) from error
        except ValueError as error:  # how tensorstore says it
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise unwritable(self.path, OSError(errno.ENOSPC, "disk full")) from error

    def latest(self) -> int:
        """The newest step saved, or 0; whether it can be read is seen by `restore`."""
        newest = self._inner.latest
        return 0 if newest is None else int(newest.step)

    def restore(self, like: State) -> Restored[State]:
        """The newest state that can be read, in the shapes and dtypes of `like`, on its devices.

        One that cannot (cut short, bytes changed) is moved aside, so that its step can be saved
        again, and a warning says so. Where none can be read all stay where they are.

        Raises:
          SelfxError: there is none, or none can be read, or they are of another run's shapes.
        """
        abstract = jax.tree.map(_abstract, like)
        wrong: dict[int, Exception] = {}
        for step in sorted((int(c.step) for c in self._inner.checkpoints), reverse=True):
            try:
                restored = self._read(step, abstract)
            except MemoryError:
                raise
            except Exception as error:  # spoilt files make readers fail in any way there is
                wrong[step] = error
                continue
            for bad, why in wrong.items():
                self._set_aside(bad, why, step)
            return restored
        raise self._unreadable(wrong)

    def close(self) -> None:
        """Waits for what is being written."""
        self._inner.close()

    def _read(self, step: int, abstract: State) -> Restored[State]:
        """What the checkpoint of a step holds; any exception where it is not as it was saved."""
        state = self._inner.load_checkpointables(step, {"state": abstract})["state"]
        note = self._inner.checkpointables_metadata(step).custom_metadata
        if not isinstance(note, dict) or not note.keys() >= {"extra", "digests"}:
            raise ValueError("there is no note of what was saved")
        now, saved = _digests(state, note["extra"]), note["digests"]
        changed = sorted(name for name in {*now, *saved} if now.get(name) != saved.get(name))
        if changed:
            raise ValueError(f"{changed[0]} is not what was saved")
        return Restored(state, step, note["extra"])

    def _set_aside(self, step: int, error: Exception, instead: int) -> None:
        """Renames what cannot be read: what only seemed so can be had back by its old name."""
        aside = self.path / f"damaged-{step}"
        try:
            if aside.exists():  # of an earlier time
                shutil.rmtree(aside)
            os.rename(self.path / str(step), aside)
        except OSError as failed:
            raise unwritable(self.path, failed) from failed
        self._inner.reload()
        warnings.warn(
            f"the checkpoint of step {step} in {self.path} cannot be read ({_why(error)}); it is "
            f"now {aside.name}, and the run goes on from step {instead}",
            stacklevel=3,
        )

    def _unreadable(self, wrong: dict[int, Exception]) -> SelfxError:
        if not wrong:
            return SelfxError(f"no checkpoint in {self.path}")
        several = [f"\n    step {step}: {_why(error)}" for step, error in wrong.items()]
        error = SelfxError(
            f"the checkpoints in {self.path} cannot be read:{''.join(several)}",
            expected="one of this run, as it was saved",
            hint="--fresh to start over",
        )
        error.__cause__ = next(iter(wrong.values()))
        return error


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


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _digests(state: Any, extra: dict[str, Any]) -> dict[str, str]:
    """sha256 of every array by its path in the tree, and of `extra`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    arrays = {f"array {jax.tree_util.keystr(path)}": _digest(leaf) for path, leaf in leaves}
    words = json.dumps(extra, sort_keys=True).encode()
    return {**arrays, "extra": hashlib.sha256(words).hexdigest()}


def _digest(leaf: Any) -> str:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    kind = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(kind + array.reshape(-1).view(np.uint8).data).hexdigest()


def _why(error: BaseException) -> str:
    """The first cause, in a line: what comes after it is how the reader took it."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return " ".join(str(error).split())[:200] or type(error).__name__
