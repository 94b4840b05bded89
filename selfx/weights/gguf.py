"""GGUF files: their config and their weights, dequantised.

Format: the GGUF specification of ggml. Files hold llama's query and key rows interleaved, for a
rotary embedding that pairs neighbours; `selfx.weights.layout` puts them back.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.weights.gguf_config import config_from_gguf
from selfx.weights.layout import assemble, check_tensors, expected_tensors


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """A GGUF file, opened: its metadata as plain values, its tensors still on disk.

    Attributes:
      path: the file.
      fields: `{key: value}` of its metadata.
      tensors: `{name: tensor}`, not yet dequantised.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, gguf.ReaderTensor]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, outermost axis first (the file stores it innermost first)."""
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32, dequantised.

        Raises:
          SelfxError: its quantisation is not one that can be read.
        """
        tensor = self.tensors[name]
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise SelfxError(
                f"{self.path}: {name} is quantised as {tensor.tensor_type.name}",
                expected="a quantisation that the gguf package can undo",
                hint="take a file of another quantisation, such as Q8_0 or F16",
            ) from error
        return values.reshape(self.shape(name))


def open_gguf(path: str | Path) -> GgufFile:
    """The file at `path`, its metadata read.

    Raises:
      SelfxError: it is not a GGUF file, or not a whole one.
    """
    path = Path(path)
    try:
        reader = _Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise SelfxError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the reader lets damaged bytes raise whatever they happen to
        raise SelfxError(
            f"{path} is not a readable GGUF file: {error}",
            expected="a whole GGUF file, or the folder of a model in safetensors",
            hint="fetch it again if it should be one: it is damaged or cut short",
        ) from error
    return GgufFile(path, fields, {tensor.name: tensor for tensor in reader.tensors})


def gguf_config(file: GgufFile) -> Config:
    """The architecture that a file declares.

    Raises:
      SelfxError: it lacks a number, or has a field that is not honoured.
    """
    shapes = {name: file.shape(name) for name in file.tensors}
    rope_factors = file.read("rope_freqs.weight") if "rope_freqs.weight" in shapes else None
    try:
        return config_from_gguf(file.fields, shapes, rope_factors)
    except SelfxError as error:
        raise SelfxError(
            f"{file.path}: {error.got}", expected=error.expected, hint=error.hint
        ) from error


def gguf_weights(
    file: GgufFile, config: Config, dtype: Any, mesh: jax.sharding.Mesh | None = None
) -> Decoder:
    """The decoder of a file, spread over `mesh` if one is given.

    Raises:
      SelfxError: tensors that are missing, unexpected or of another shape.
    """
    found = {name: file.shape(name) for name in file.tensors}
    optional = {"rope_freqs.weight": (config.d_head // 2,)}
    check_tensors(found, expected_tensors(config, "gguf"), str(file.path), optional)
    tensors = ((name, file.read(name)) for name in file.tensors)
    return assemble(config, "gguf", tensors, dtype, mesh)


class _Reader(gguf.GGUFReader):
    """The package's reader, made to notice a file that ends early, and several times faster.

    By itself it slices a memory map for each of some hundred thousand strings, and takes what a
    cut file still holds for the whole.
    """

    def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        ordered = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        if offset + ordered.itemsize * int(count) > self.data.size:
            raise ValueError("it ends early")
        return np.frombuffer(self.data, ordered, int(count), offset)
