"""A run folder: what was trained on what, so that it can be resumed, checked and loaded.

config.json     the settings, the explainer's hash, each trace's hash and target
metrics.jsonl   one object a logged step; only what a repeated run would write again
checkpoints/    orbax: adapters, optimiser, step
adapter/        the result in PEFT's layout, written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp

from selfx.errors import SelfxError
from selfx.explainer.injection import Scaling
from selfx.explainer.lora import Adapters, Lora
from selfx.explainer.prompts import Style
from selfx.explainer.step import Optimization
from selfx.files import read_json
from selfx.run_folder import RunFolder
from selfx.weights.peft import load_adapter, save_adapter

POSITIVE = ("epochs", "batch_size", "rank", "alpha", "strength", "learning_rate", "clip")
CHOICES: dict[str, tuple[str, ...]] = {
    "style": get_args(Style),
    "scaling": get_args(Scaling),
    "schedule": ("constant", "linear"),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """The settings of a run; with the data and the seed they decide every number in it.

    Attributes:
      epochs: passes over the data; a fraction is allowed.
      batch_size: examples a step.
      rank: of the adapters.
      alpha: adapters are scaled by alpha / rank.
      style: how a question is framed: the explainer's `chat` template, or `plain` text.
      scaling: how a vector enters: in place of an embedding, `raw` (the paper) or `matched` to the
        embeddings' length, or added at its own `layer`.
      strength: how many average embedding lengths, where `matched`; how many lengths of the
        residual, at a `layer`.
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
        own, optimization = dataclasses.asdict(self), dataclasses.asdict(self.optimization)
        values = {**own, **optimization}
        for name in POSITIVE:
            if not 0 < values[name] < math.inf:
                raise SelfxError(f"{name} {values[name]}", expected="a positive number")
        for name in ("warmup", "weight_decay"):
            if not 0 <= values[name] < math.inf:
                raise SelfxError(f"{name} {values[name]}", expected="0 or more")
        for name, choices in CHOICES.items():
            if values[name] not in choices:
                raise SelfxError(f"{name} {values[name]!r}", expected=" or ".join(choices))


class Run(RunFolder):
    """A run folder's paths, and its result."""

    KEYS = frozenset({"explainer_hash", "training"})
    RESULT = "adapter"

    @property
    def adapter(self) -> Path:
        """The result."""
        return self.result

    def record(self) -> dict[str, Any]:
        """What config.json holds.

        Raises:
          SelfxError: there is no run.
        """
        if not self.exists():
            raise SelfxError(f"no run in {self.path}", expected="a folder that `selfx train` wrote")
        return read_json(self.config)

    def training(self) -> Training:
        """The settings it was trained with.

        Raises:
          SelfxError: there is no run, or another version wrote it.
        """
        settings = dict(self.record()["training"])
        try:
            optimization = Optimization(**settings.pop("optimization"))
            return Training(**settings, optimization=optimization)
        except (KeyError, TypeError) as error:
            raise SelfxError(
                f"the settings in {self.config} cannot be read: {error}",
                expected="those of this version of selfx",
                hint="train it again",
            ) from error

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


def digest(folder: Path) -> str:
    """sha256 of a trace: its parquet files, in order of name."""
    whole = hashlib.sha256()
    for file in sorted(folder.glob("*.parquet")):
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
