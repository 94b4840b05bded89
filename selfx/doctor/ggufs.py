"""What a GGUF file declares and holds, through the gguf package alone.

Llama's files keep the rows of query and key in the order of its original code, in which a rotary
pair is two neighbours; here each head's pairs are pulled apart again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from selfx.doctor.spec import Checkpoint, Spec, Turn
from selfx.errors import SelfxError

_INSIDE = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_OUTSIDE = {
    "embed": "token_embd.weight",
    "head": "output.weight",
    "final_norm.w": "output_norm.weight",
}
_KIND = {"w": "weight", "b": "bias"}


def gguf_checkpoint(path: Path) -> Checkpoint:
    """Architecture and tensors of a file.

    Raises:
      SelfxError: it is of an architecture, or stretches positions in a way, not known here.
    """
    reader = gguf.GGUFReader(path)
    fields = {
        name: field for name, field in reader.fields.items() if name != "tokenizer.ggml.merges"
    }
    family = fields["general.architecture"].contents()
    if family != "llama":
        raise SelfxError(f"the doctor knows no GGUF files of {family}")

    def value(key: str, absent: Any = None) -> Any:
        field = fields.get(f"llama.{key}")
        return absent if field is None else field.contents()

    tensors = GgufTensors({tensor.name: tensor for tensor in reader.tensors})
    heads = value("attention.head_count")
    d_head = value("attention.key_length", value("embedding_length") // heads)
    spec = Spec(
        heads=heads,
        kv_heads=value("attention.head_count_kv", heads),
        d_head=d_head,
        eps=value("attention.layer_norm_rms_epsilon"),
        scale=d_head**-0.5,
        turn=_turn(value, value("rope.dimension_count", d_head), tensors),
    )
    tensors.heads = {"q": spec.heads, "k": spec.kv_heads}
    return Checkpoint((spec,) * value("block_count"), tensors)


class GgufTensors:
    """The tensors of a file, dequantised one at a time."""

    def __init__(self, tensors: dict[str, gguf.ReaderTensor]):
        self.tensors, self.heads = tensors, dict[str, int]()

    def outside(self, role: str) -> np.ndarray | None:
        """A tensor that no layer owns, as `spec.Tensors` says."""
        return self.read(_OUTSIDE[role]) if role in _OUTSIDE else None

    def inside(self, role: str, layer: int, expert: int | None = None) -> np.ndarray | None:
        """A layer's tensor, as `spec.Tensors` says."""
        owner, kind = role.split(".")
        found = (
            self.read(f"blk.{layer}.{_INSIDE[owner]}.{_KIND[kind]}") if owner in _INSIDE else None
        )
        if found is not None and owner in self.heads:
            found = _apart(found, self.heads[owner])
        return None if found is None else found.T

    def read(self, name: str) -> np.ndarray | None:
        """A tensor in float32, outermost axis first, or None if there is none."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        shape = tuple(int(size) for size in tensor.shape[::-1])
        return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)


def _apart(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows `[heads * e, ...]` with each head's even ones first, then its odd ones."""
    by_head = rows.reshape(heads, -1, *rows.shape[1:])
    return np.concatenate([by_head[:, ::2], by_head[:, 1::2]], axis=1).reshape(rows.shape)


def _turn(value: Any, width: int, tensors: GgufTensors) -> Turn:
    theta, kind = value("rope.freq_base", 10_000.0), value("rope.scaling.type", "none")
    factors = tensors.read("rope_freqs.weight")
    if factors is not None:
        return Turn(theta, width, "divided", {"factors": factors})
    settings = {
        "factor": value("rope.scaling.factor"),
        "max_position_embeddings": value("context_length"),
        "original_max_position_embeddings": value("rope.scaling.original_context_length"),
        "beta_fast": value("rope.scaling.yarn_beta_fast"),
        "beta_slow": value("rope.scaling.yarn_beta_slow"),
    }
    if kind == "yarn" and value("rope.scaling.attn_factor", 1.0) != 1:
        raise SelfxError("the doctor knows no GGUF files with an attention factor of their own")
    return Turn(theta, width, "default" if kind == "none" else kind, settings)
