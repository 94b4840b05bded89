"""Models to examine: golden checkpoints, whole or with a fault planted in the model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.doctor.run import examine_decoder
from selfx.models.parameters import from_parameters, parameter_path, parameter_shapes
from selfx.weights.safetensors import folder_config, folder_weights

LENGTH = 20  # longer than the windows and the original lengths of the golden checkpoints


@dataclasses.dataclass(frozen=True)
class Patient:
    """A model, and the checkpoint that it should be the model of."""

    model: Any
    folder: Any
    tokens: Any

    def with_config(self, **changes):
        """The same weights under another architecture, as far as that one has them."""
        config = dataclasses.replace(self.model.config, **changes)
        return self._made(config, self.weights())

    def with_weights(self, **changes):
        """Some weights changed: `{path, dots as double underscores: function of the old}`."""
        old = self.weights()
        new = {path.replace("__", "."): change for path, change in changes.items()}
        altered = {path: jnp.asarray(change(np.array(old[path]))) for path, change in new.items()}
        return self._made(self.model.config, {**old, **altered})

    def weights(self):
        """`{path: array}`."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.model)
        return {parameter_path(path): leaf for path, leaf in leaves}

    def examined(self, **options):
        """The doctor's report."""
        return examine_decoder(self.model, self.folder, tokens=self.tokens, **options)

    def _made(self, config, weights):
        shapes = parameter_shapes(config)
        kept = {path: weights[path] for path in shapes}
        dtype = self.model.embed[...].dtype
        return dataclasses.replace(self, model=from_parameters(config, kept, dtype))


@pytest.fixture(scope="session")
def patient(golden, tmp_path_factory):
    """A function: a golden case as a `Patient`, in some dtype."""
    folders = {}

    def make(case, dtype="float32"):
        if case not in folders:
            folders[case] = golden.write_folder(case, tmp_path_factory.mktemp(case))
        folder = folders[case]
        config = folder_config(folder)
        tokens = np.stack(golden.tokens(case, config.vocab_size, (LENGTH, LENGTH)))
        return Patient(folder_weights(folder, config, jnp.dtype(dtype)), folder, tokens)

    return make
