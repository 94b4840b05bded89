"""Which tensor of a file becomes which weight of a decoder: one table a family, and its use.

A row names a weight by its path in `selfx.models.decoder.parameter_shapes`, and the tensor that
holds it in Hugging Face and in GGUF files. `{layer}` stands for the layer's number; the stacked
weight has a leading layer axis that files do not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.decoder import Decoder, from_parameters, parameter_shapes

PEFT_MODULES: dict[str, str] = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""`{map: module inside a layer}`, as Hugging Face and PEFT call the seven linear maps."""

_GGUF_MODULES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """Where one weight is found.

    Attributes:
      hf: the tensor's name in a Hugging Face folder.
      gguf: its name in a GGUF file.
      transposed: whether files hold `[out, in]`, which the decoder holds as `[in, out]`.
      interleaved: whose heads' rows GGUF files interleave for their rotary embedding.
    """

    hf: str
    gguf: str
    transposed: bool = False
    interleaved: Literal["n_heads", "n_kv_heads"] | None = None


def _maps() -> dict[str, Row]:
    """Rows of the seven linear maps, weights and biases."""
    heads: dict[str, Any] = {"q": "n_heads", "k": "n_kv_heads"}
    rows = {}
    for name, module in PEFT_MODULES.items():
        hf, gguf = f"model.layers.{{layer}}.{module}", f"blk.{{layer}}.{_GGUF_MODULES[name]}"
        rows[f"blocks.{name}.w"] = Row(f"{hf}.weight", f"{gguf}.weight", True, heads.get(name))
        rows[f"blocks.{name}.b"] = Row(f"{hf}.bias", f"{gguf}.bias", False, heads.get(name))
    return rows


LAYOUTS: dict[str, dict[str, Row]] = {
    "llama": {
        "embed": Row("model.embed_tokens.weight", "token_embd.weight"),
        "blocks.attn_norm": Row(
            "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight"
        ),
        "blocks.mlp_norm": Row(
            "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight"
        ),
        **_maps(),
        "final_norm": Row("model.norm.weight", "output_norm.weight"),
        "unembed.w": Row("lm_head.weight", "output.weight", transposed=True),
    }
}
"""`{family: {weight's path: where it is found}}`."""

Format = Literal["hf", "gguf"]


def expected_tensors(config: Config, fmt: Format) -> dict[str, tuple[int, ...]]:
    """`{tensor's name: shape}` that a file of this config must hold."""
    expected = {}
    for path, leaf in parameter_shapes(config).items():
        row = LAYOUTS[config.family][path]
        for layer in _layers(path, config):
            shape = leaf.shape if layer is None else leaf.shape[1:]
            expected[_name(row, fmt, layer)] = shape[::-1] if row.transposed else shape
    return expected


def check_tensors(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    where: str,
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Nothing, if the tensors found are those expected.

    Raises:
      SelfxError: everything missing, unexpected and of another shape, in one message.
    """
    known = {**(optional or {}), **expected}
    shapes = [
        f"{name} {list(found[name])}, not {list(known[name])}"
        for name in sorted(found.keys() & known.keys())
        if tuple(found[name]) != tuple(known[name])
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - known.keys()),
        "wrong shape": shapes,
    }
    lines = [f"  {title}: {_some(names)}" for title, names in problems.items() if names]
    if lines:
        raise SelfxError(
            "\n".join([f"the tensors of {where} do not fit its config", *lines]),
            expected=f"{len(expected)} tensors of the shapes that the config gives",
            hint="check that weights and config belong together and were downloaded whole",
        )


def assemble(config: Config, fmt: Format, read: Callable[[str], np.ndarray], dtype: Any) -> Decoder:
    """The decoder whose tensors `read` returns by name; one stacked weight in memory at a time."""
    parameters: dict[str, jax.Array] = {}
    for path, leaf in parameter_shapes(config, dtype).items():
        row = LAYOUTS[config.family][path]
        whole = np.empty(leaf.shape, leaf.dtype)
        for layer in _layers(path, config):
            tensor = _decoder_order(read(_name(row, fmt, layer)), row, fmt, config)
            whole[... if layer is None else layer] = tensor
        parameters[path] = jnp.asarray(whole)
    return from_parameters(config, parameters, dtype)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """`rows` `[heads * e, ...]` as GGUF files order them: a head's halves, alternating."""
    return _swap(rows, heads, 2, rows.shape[0] // heads // 2)


def deinterleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """`rows` `[heads * e, ...]` of a GGUF file, a head's two halves one after the other."""
    return _swap(rows, heads, rows.shape[0] // heads // 2, 2)


def _swap(rows: np.ndarray, heads: int, outer: int, inner: int) -> np.ndarray:
    return rows.reshape(heads, outer, inner, -1).swapaxes(1, 2).reshape(rows.shape)


def _decoder_order(tensor: np.ndarray, row: Row, fmt: Format, config: Config) -> np.ndarray:
    if fmt == "gguf" and row.interleaved:
        tensor = deinterleave(tensor, getattr(config, row.interleaved))
    return tensor.T if row.transposed else tensor


def _layers(path: str, config: Config) -> Iterable[int | None]:
    return range(config.n_layers) if path.startswith("blocks.") else (None,)


def _name(row: Row, fmt: Format, layer: int | None) -> str:
    return getattr(row, fmt).format(layer=layer)


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
