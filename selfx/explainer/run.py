"""A run folder: what was trained on what, so that it can be resumed, checked and loaded.

config.json       the settings, the explainer's hash, each trace's hash and target
metrics.jsonl     one object a logged step; only what a repeated run would write again
tensorboard/      the same for TensorBoard
checkpoints/      orbax: the parts trained, optimiser, step
best.safetensors  the parts at the best look at held-out examples, where patience decides
model/            all of the explainer's weights, where those were trained
adapter/          the result: LoRA in PEFT's layout, and reader.safetensors; written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from selfx.errors import SelfxError
from selfx.explainer.lora import Adapters, Lora
from selfx.explainer.origin import Origin
from selfx.explainer.reader import Reader, load_reader, save_reader
from selfx.explainer.trained import Trained, explaining, parameters
from selfx.explainer.training import Training, from_record
from selfx.files import atomic, read_json, unwritable
from selfx.models.config import Config
from selfx.run_folder import RunFolder
from selfx.tasks.store import files_of
from selfx.weights.load import LanguageModel, load
from selfx.weights.peft import load_adapter, save_adapter

_LORA, _READER = "adapter_model.safetensors", "reader.safetensors"


class Run(RunFolder):
    """A run folder's paths, and its result.

    Attributes:
      NEW: what `config.json` has had since vectors may come from a model of another shape.
    """

    KEYS = frozenset({"explainer_hash", "training"})
    NEW = frozenset({"quantize", "origin"})
    RESULT = "adapter"

    @property
    def adapter(self) -> Path:
        """The result."""
        return self.result

    @property
    def model(self) -> Path:
        """The explainer's weights, where those were trained."""
        return self.path / "model"

    def record(self) -> dict[str, Any]:
        """What config.json holds.

        Raises:
          SelfxError: there is no run.
        """
        if not self.exists():
            raise SelfxError(f"no run in {self.path}", expected="a folder that `selfx train` wrote")
        record = read_json(self.config)
        if not record.keys() >= self.NEW:
            raise SelfxError(f"a run of an earlier version in {self.path}", hint="train it again")
        return record

    def training(self) -> Training:
        """The settings it was trained with.

        Raises:
          SelfxError: there is no run, or another version wrote it.
        """
        try:
            return from_record(self.record()["training"])
        except (KeyError, TypeError) as error:
            raise SelfxError(
                f"the settings in {self.config} cannot be read: {error}",
                expected="those of this version of selfx",
                hint="train it again",
            ) from error

    def origin(self) -> Origin:
        """The shape of the target that its vectors came from."""
        return Origin(**self.record()["origin"])

    def keep_best(self, trained: Trained) -> None:
        """Keeps the parts, as the best yet."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(trained)
        named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        with atomic(self._best) as temporary:
            temporary.write_bytes(save(named))

    def best(self, like: Trained) -> Trained:
        """The parts that were kept as the best.

        Raises:
          SelfxError: they cannot be read.
        """
        leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
        try:
            kept = load_file(self._best)
            found = [jnp.asarray(kept[jax.tree_util.keystr(path)]) for path, _ in leaves]
        except (OSError, KeyError, SafetensorError) as error:
            raise SelfxError(f"{self._best} cannot be read: {error}", hint="--fresh") from error
        return jax.tree.unflatten(treedef, found)

    def save_result(
        self,
        trained: Trained,
        given: Reader | None,
        training: Training,
        explainer: LanguageModel,
    ) -> None:
        """Writes the result, the folder that marks a finished run last and in one piece."""
        if trained.model is not None:
            from selfx.weights.save import save_model

            whole = explaining(trained, explainer.model)
            save_model(dataclasses.replace(explainer, model=whole), self.model)
        partial = self.path / ".adapter"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise unwritable(partial, error) from error
        if trained.lora is not None:
            pairs = {name: (x.a, x.b) for name, x in trained.lora.items()}
            alpha = training.lora_scale * training.rank
            save_adapter(partial, pairs, alpha=alpha, base=explainer.name, config=explainer.config)
        reader = given if trained.reader is None else trained.reader.over(given)
        if reader is not None:
            save_reader(reader, partial / _READER)
        try:
            partial.rename(self.adapter)
        except OSError as error:
            raise unwritable(self.adapter, error) from error

    def load_result(self, config: Config | None = None) -> Trained:
        """What was trained, with what was given beside it.

        Args:
          config: of the explainer, by which the files of families that fuse maps are read.

        Raises:
          SelfxError: the run is not finished, or its files cannot be read.
        """
        if not self.adapter.exists():
            raise SelfxError(f"the run in {self.path} is not finished", hint="selfx train again")
        reader = self.adapter / _READER
        weights = parameters(load(str(self.model)).model) if self.model.exists() else None
        return Trained(
            lora=self.load_adapter(config) if (self.adapter / _LORA).exists() else None,
            reader=load_reader(reader) if reader.exists() else None,
            model=weights,
        )

    def load_adapter(self, config: Config | None = None) -> Adapters:
        """The adapters, ready for `forward(lora=...)`."""
        pairs, scale = load_adapter(self.adapter, config)
        return {name: Lora(jnp.asarray(a), jnp.asarray(b), scale) for name, (a, b) in pairs.items()}

    def digest(self) -> str:
        """sha256 of the result's tensors, in order of name; of nothing where there is none."""
        whole = hashlib.sha256()
        for folder in (self.adapter, self.model):
            for file in sorted(folder.glob("*.safetensors")):
                whole.update(hashlib.sha256(file.read_bytes()).digest())
        return whole.hexdigest()

    def _clear(self) -> None:
        """The weights and the best parts go too: a run of another kind would take them for its."""
        try:
            if self.model.exists():
                shutil.rmtree(self.model)
            self._best.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        super()._clear()

    @property
    def _best(self) -> Path:
        return self.path / "best.safetensors"


def digest(folder: Path) -> str:
    """sha256 of a trace: its parquet files, in order of name."""
    whole = hashlib.sha256()
    for file in files_of(folder):
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
