"""The tensors of a Hugging Face folder by role, by the names that each family's own code uses."""

from __future__ import annotations

import numpy as np

from selfx.doctor.raw import RawFolder
from selfx.doctor.spec import Spec

_MAPS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_BEFORE = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_AFTER = {
    "attn_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
LLAMA = _MAPS | _BEFORE
"""`{role: module inside a layer}` of Llama and of most others."""
_GEMMA = {
    **_MAPS,
    **_AFTER,
    "attn_norm": "input_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
}
_PHI3 = {
    **LLAMA,
    **dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj"),
    **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
}
_MOE = {
    **LLAMA,
    "router": "mlp.gate",
    **{name: f"mlp.experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")},
}
_GPT2 = {
    **dict.fromkeys(("q", "k", "v"), "attn.c_attn"),
    "o": "attn.c_proj",
    "attn_norm": "ln_1",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_NEOX = {
    **_BEFORE,
    **dict.fromkeys(("q", "k", "v"), "attention.query_key_value"),
    "o": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
_INSIDE: dict[str, dict[str, str]] = {
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA),
    **dict.fromkeys(("olmo2", "olmo3"), _MAPS | _AFTER),
    "phi3": _PHI3,
    "qwen3_moe": _MOE,
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
}
_EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight")
_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "embed_out.weight")


class NamedTensors:
    """The tensors of one folder."""

    def __init__(self, raw: RawFolder, family: str, spec: Spec, tied: bool):
        self.raw, self.family, self.spec, self.tied = raw, family, spec, tied
        self.names = _INSIDE.get(family, LLAMA)
        self.embedding = next(
            n for n in raw.entries if n.endswith(_EMBEDDINGS) and "vision" not in n
        )
        self.stem = self.embedding[
            : -len(next(e for e in _EMBEDDINGS if self.embedding.endswith(e)))
        ]
        self.layers = f"{self.stem}{'h' if family == 'gpt2' else 'layers'}."

    def outside(self, role: str) -> np.ndarray | None:
        """A tensor that no layer owns, as `spec.Tensors` says."""
        if role == "head":
            found = [] if self.tied else [name for name in _HEADS if name in self.raw]
            return self.raw.read(found[0]) if found else None
        if role == "embed":
            return self.raw.read(self.embedding)
        if role == "places":
            return self.raw.read(f"{self.stem}wpe.weight")
        norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(self.family, "norm")
        return self._maybe(f"{self.stem}{norm}.{_KIND[role.removeprefix('final_norm.')]}")

    def inside(self, role: str, layer: int, expert: int | None = None) -> np.ndarray | None:
        """A layer's tensor, as `spec.Tensors` says."""
        owner, kind = role.split(".")
        if owner not in self.names:
            return None
        name = self.names[owner].format(expert=expert)
        tensor = self._maybe(f"{self.layers}{layer}.{name}.{_KIND[kind]}")
        if tensor is None:
            return None
        if tensor.ndim == 2 and self.family != "gpt2":  # whose maps are stored as [in, out]
            tensor = tensor.T
        return self._part(tensor, owner)

    def _maybe(self, name: str) -> np.ndarray | None:
        return self.raw.read(name) if name in self.raw else None

    def _part(self, tensor: np.ndarray, owner: str) -> np.ndarray:
        """The map called `owner` of those that share a tensor `[..., out]`."""
        spec, out = self.spec, tensor.shape[-1]
        if owner in "qkv" and self.family == "gpt_neox":
            by_head = tensor.reshape(*tensor.shape[:-1], spec.heads, 3, spec.d_head)
            return by_head[..., "qkv".index(owner), :].reshape(*tensor.shape[:-1], -1)
        if owner in "qkv" and self.family in ("gpt2", "phi3"):
            q, k = spec.heads * spec.d_head, spec.kv_heads * spec.d_head
            return tensor[
                ..., {"q": slice(0, q), "k": slice(q, q + k), "v": slice(q + k, out)}[owner]
            ]
        if owner in ("gate", "up") and self.family == "phi3":
            return tensor[..., : out // 2] if owner == "gate" else tensor[..., out // 2 :]
        return tensor


_KIND = {"w": "weight", "b": "bias"}
