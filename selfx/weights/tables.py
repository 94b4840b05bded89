"""Which tensor of a file holds which weight of a decoder: one table a family.

A row names a weight by its path in `selfx.models.parameters`. `{layer}` stands for the layer's
number and `{expert}` for the expert's; the stacked weight has leading axes for them that files do
not have. Several rows may name one tensor, in which a family keeps several maps.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

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

GGUF_FAMILIES = ("llama",)
"""Families whose GGUF files can be read."""

_GGUF_MODULES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


_BUFFERS = r".*rotary_emb\.inv_freq"
"""Tensors that old files keep and the config gives."""


@dataclasses.dataclass(frozen=True)
class Fused:
    """Several maps in one tensor, along its output axis.

    Attributes:
      maps: in the order in which they lie.
      by_head: whether they lie so within each head (GPT-NeoX), else one after the other.
    """

    maps: tuple[str, ...]
    by_head: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """Where one weight is found.

    Attributes:
      hf: the tensor's name in a Hugging Face folder.
      gguf: its name in a GGUF file.
      transposed: whether files hold `[out, in]`, which the decoder holds as `[in, out]`.
      interleaved: whose heads' rows GGUF files interleave for their rotary embedding.
      fused: which maps the tensor holds, if several.
      part: which of them this weight is.
    """

    hf: str
    gguf: str = ""
    transposed: bool = False
    interleaved: Literal["n_heads", "n_kv_heads"] | None = None
    fused: Fused | None = None
    part: str = ""


Table = dict[str, Row]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a family's files are laid out.

    Attributes:
      table: `{weight's path: row}`.
      prefixes: what names may begin with instead, `{in the file: in the table}`.
      ignored: a pattern of names that hold no weight of the decoder.
    """

    table: Table
    prefixes: tuple[tuple[str, str], ...] = ()
    ignored: str = ""

    def canonical(self, name: str) -> str | None:
        """A file's tensor name as the table has it; None for a tensor that is left out."""
        for found, wanted in self.prefixes:
            if name.startswith(found):
                name = wanted + name.removeprefix(found)
                break
        return None if re.fullmatch(rf"{_BUFFERS}|{self.ignored}", name) else name


def _norm(path: str, hf: str, gguf: str = "") -> Table:
    """A norm's rows: weight, and the bias that a LayerNorm has."""
    return {f"{path}.w": Row(f"{hf}.weight", gguf), f"{path}.b": Row(f"{hf}.bias")}


def _map(
    name: str,
    hf: str,
    gguf: str = "",
    *,
    transposed: bool = True,
    interleaved: Any = None,
    fused: Fused | None = None,
) -> Table:
    """A linear map's rows, weight and bias."""
    part = name if fused else ""
    return {
        f"blocks.{name}.w": Row(
            f"{hf}.weight", gguf and f"{gguf}.weight", transposed, interleaved, fused, part
        ),
        f"blocks.{name}.b": Row(
            f"{hf}.bias", gguf and f"{gguf}.bias", False, interleaved, fused, part
        ),
    }


def _llama_maps() -> Table:
    heads = {"q": "n_heads", "k": "n_kv_heads"}
    rows: Table = {}
    for name, module in PEFT_MODULES.items():
        hf, gguf = f"model.layers.{{layer}}.{module}", f"blk.{{layer}}.{_GGUF_MODULES[name]}"
        rows |= _map(name, hf, gguf, interleaved=heads.get(name))
    return rows


_IN = "model.layers.{layer}"
_LLAMA: Table = {
    "embed": Row("model.embed_tokens.weight", "token_embd.weight"),
    **_norm("blocks.attn_norm", f"{_IN}.input_layernorm", "blk.{layer}.attn_norm.weight"),
    **_norm("blocks.q_norm", f"{_IN}.self_attn.q_norm"),
    **_norm("blocks.k_norm", f"{_IN}.self_attn.k_norm"),
    **_norm("blocks.mlp_norm", f"{_IN}.post_attention_layernorm", "blk.{layer}.ffn_norm.weight"),
    **_llama_maps(),
    **_norm("final_norm", "model.norm", "output_norm.weight"),
    "unembed.w": Row("lm_head.weight", "output.weight", transposed=True),
}
_SANDWICH: Table = {
    **_LLAMA,
    **_norm("blocks.attn_post_norm", f"{_IN}.post_attention_layernorm"),
    **_norm("blocks.mlp_norm", f"{_IN}.pre_feedforward_layernorm"),
    **_norm("blocks.mlp_post_norm", f"{_IN}.post_feedforward_layernorm"),
}
_QKV, _GATE_UP = Fused(("q", "k", "v")), Fused(("gate", "up"))
_PHI3: Table = {
    **_LLAMA,
    **{k: v for m in "qkv" for k, v in _map(m, f"{_IN}.self_attn.qkv_proj", fused=_QKV).items()},
    **_map("gate", f"{_IN}.mlp.gate_up_proj", fused=_GATE_UP),
    **_map("up", f"{_IN}.mlp.gate_up_proj", fused=_GATE_UP),
}
_EXPERT = f"{_IN}.mlp.experts.{{expert}}"
_MOE: Table = {
    **_LLAMA,
    "blocks.experts.router.w": Row(f"{_IN}.mlp.gate.weight", transposed=True),
    **{
        f"blocks.experts.{name}": Row(f"{_EXPERT}.{name}_proj.weight", transposed=True)
        for name in ("gate", "up", "down")
    },
}
_GPT2: Table = {
    "embed": Row("wte.weight"),
    "places": Row("wpe.weight"),
    **_norm("blocks.attn_norm", "h.{layer}.ln_1"),
    **{
        k: v
        for m in "qkv"
        for k, v in _map(m, "h.{layer}.attn.c_attn", transposed=False, fused=_QKV).items()
    },
    **_map("o", "h.{layer}.attn.c_proj", transposed=False),
    **_norm("blocks.mlp_norm", "h.{layer}.ln_2"),
    **_map("up", "h.{layer}.mlp.c_fc", transposed=False),
    **_map("down", "h.{layer}.mlp.c_proj", transposed=False),
    **_norm("final_norm", "ln_f"),
    "unembed.w": Row("lm_head.weight", transposed=True),
}
_BY_HEAD = Fused(("q", "k", "v"), by_head=True)
_NEOX_IN = "gpt_neox.layers.{layer}"
_NEOX: Table = {
    "embed": Row("gpt_neox.embed_in.weight"),
    **_norm("blocks.attn_norm", f"{_NEOX_IN}.input_layernorm"),
    **{
        k: v
        for m in "qkv"
        for k, v in _map(m, f"{_NEOX_IN}.attention.query_key_value", fused=_BY_HEAD).items()
    },
    **_map("o", f"{_NEOX_IN}.attention.dense"),
    **_norm("blocks.mlp_norm", f"{_NEOX_IN}.post_attention_layernorm"),
    **_map("up", f"{_NEOX_IN}.mlp.dense_h_to_4h"),
    **_map("down", f"{_NEOX_IN}.mlp.dense_4h_to_h"),
    **_norm("final_norm", "gpt_neox.final_layer_norm"),
    "unembed.w": Row("embed_out.weight", transposed=True),
}

_WRAPPED = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
_IMAGES = r"(model\.)?(vision_tower|multi_modal_projector)\..*"

LAYOUTS: dict[str, Layout] = {
    **{
        family: Layout(_LLAMA)
        for family in ("llama", "smollm3", "mistral", "ministral", "qwen2", "qwen3")
    },
    "mimo": Layout(_LLAMA, ignored=r"model\.mtp_layers\..*"),
    "qwen3_moe": Layout(_MOE),
    "gemma2": Layout(_SANDWICH),
    "gemma3_text": Layout(_SANDWICH, _WRAPPED, _IMAGES),
    "olmo2": Layout(_SANDWICH),
    "olmo3": Layout(_SANDWICH),
    "phi3": Layout(_PHI3),
    "gpt2": Layout(_GPT2, (("transformer.", ""),), r"h\.\d+\.attn\.(bias|masked_bias)"),
    "gpt_neox": Layout(
        _NEOX,
        (("lm_head.", "embed_out."),),
        r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias)",
    ),
}
"""`{family: how its files are laid out}`."""
