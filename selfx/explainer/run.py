"""A run folder: what was trained on what, so that it can be resumed, checked and loaded.

config.json     the settings, the explainer's hash, each trace's hash and target
metrics.jsonl   one object a logged step; only what a repeated run would write again
checkpoints/    orbax: adapters, optimiser, step
adapter/        the result in PEFT's layout, written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from selfx.errors import SelfxError
from selfx.explainer.injection import Scaling
from selfx.explainer.lora import Adapters, Lora
from selfx.explainer.prompts import Style
from selfx.explainer.step import Optimization
from selfx.files import read_json, write_json
from selfx.weights.peft import load_adapter, save_adapter


@dataclasses.dataclass(frozen=True)
class Training:
    """The settings of a run; with the data and the seed they decide every number in it.

    Attributes:
      epochs: passes over the data; a fraction is allowed.
      batch_size: examples a step.
      rank: of the adapters.
      alpha: adapters are scaled by alpha / rank.
      style: how a question is framed: the explainer's `chat` template, or `plain` text.
      scaling: whether a vector enters `raw` (the paper) or `matched` to the embeddings' length.
      strength: how many average embedding lengths, where `matched`.
      optimization: AdamW's settings.
      remat: recompute instead of keeping: less memory, more time.
      seed: of the adapters' start and the order of the data.
    """

    epochs: float = 3.0
    batch_size: int = 16
    rank: int = 16
    alpha: float = 16.0
    style: Style = "chat"
    scaling: Scaling = "matched"
    strength: float = 5.0
    optimization: Optimization = Optimization()
    remat: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raises SelfxError for settings that no run can have."""
        wrong = {
            "epochs": self.epochs <= 0,
            "batch_size": self.batch_size < 1,
            "rank": self.rank < 1,
            "alpha": self.alpha <= 0,
            "strength": self.strength <= 0,
            "optimization.learning_rate": self.optimization.learning_rate <= 0,
        }
        for name, bad in wrong.items():
            if bad:
                raise SelfxError(f"{name} of 0 or less", expected="a positive number")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder's paths."""

    path: Path

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
    def adapter(self) -> Path:
        """The result."""
        return self.path / "adapter"

    def open(self, record: dict[str, Any], fresh: bool) -> None:
        """Makes the folder, or checks that it is of the same run; `fresh` empties it first.

        Raises:
          SelfxError: the folder holds a run of other settings, or something else.
        """
        if fresh:
            self._clear()
        if self.config.exists():
            _must_match(self.path, read_json(self.config), record)
        elif self.path.exists() and any(self.path.iterdir()):
            raise SelfxError(f"{self.path} holds files that no run wrote", hint="another --out")
        else:
            write_json(self.config, record)

    def save_adapter(self, adapters: Adapters, alpha: float, base: str) -> None:
        """Writes the result in PEFT's layout."""
        save_adapter(
            self.adapter, {n: (x.a, x.b) for n, x in adapters.items()}, alpha=alpha, base=base
        )

    def load_adapter(self) -> Adapters:
        """The result, ready for `forward(lora=...)`."""
        if not self.adapter.exists():
            raise SelfxError(f"the run in {self.path} is not finished", hint="selfx train again")
        pairs, scale = load_adapter(self.adapter)
        return {name: Lora(jnp.asarray(a), jnp.asarray(b), scale) for name, (a, b) in pairs.items()}

    def _clear(self) -> None:
        """Removes what a run writes, and nothing else."""
        for folder in (self.checkpoints, self.adapter):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.config):
            file.unlink(missing_ok=True)


def digest(folder: Path) -> str:
    """sha256 of a trace: its parquet files, in order of name."""
    whole = hashlib.sha256()
    for file in sorted(folder.glob("*.parquet")):
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _must_match(path: Path, old: Any, new: dict[str, Any]) -> None:
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
    return [] if old == new else [(name, old, new)]
