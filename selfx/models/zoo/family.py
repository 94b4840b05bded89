"""What a family is, and the fields that several families read alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from selfx.errors import SelfxError
from selfx.models.zoo.fields import Fields
from selfx.models.zoo.rope import PLAIN_ROPE, RopeRules, read_rope

Sizes = Mapping[str, int]
Read = Callable[[Fields, Sizes], dict[str, Any]]

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_positions",
}
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_KINDS = {"full_attention": "full", "attention": "full", "sliding_attention": "sliding"}


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of decoders.

    Attributes:
      about: what it is made of, where it differs from Llama.
      read: from a config's fields and sizes to the rest of `Config`.
      keys: what `read` looks at, besides sizes and rotary embedding.
      sizes: `{key: attribute of Config}`.
      ignored: keys that the family's own implementation does not look at either.
      tied: whether the head is the embedding where the file does not say.
    """

    about: str
    read: Read
    keys: str
    sizes: Mapping[str, str] = dataclasses.field(default_factory=lambda: SIZES)
    ignored: str = ""
    tied: bool = False


def llama(
    fields: Fields, sizes: Sizes, rules: RopeRules = PLAIN_ROPE, kind: str = ""
) -> dict[str, Any]:
    """Of a config in Llama's spelling, all but the sizes; the rope of layers of one `kind`."""
    d_head = head_width(fields, sizes)
    bias = fields.flag("attention_bias", False)
    return {
        "n_kv_heads": fields.size("num_key_value_heads", sizes["n_heads"]),
        "d_head": d_head,
        "ropes": (read_rope(fields, sizes["max_positions"], d_head, rules, kind),),
        "norm_eps": fields.number("rms_norm_eps"),
        "activation": fields.word("hidden_act", ACTIVATIONS, "silu"),
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": fields.flag("mlp_bias", False),
    }


def head_width(fields: Fields, sizes: Sizes) -> int:
    """The width of a head, from the file or from the sizes."""
    d_model, n_heads = sizes["d_model"], sizes["n_heads"]
    if fields.values.get("head_dim") is None and d_model % n_heads:
        raise SelfxError(
            f"config.json has hidden_size {d_model} over {n_heads} heads, and no head_dim",
            expected="a multiple of num_attention_heads, or head_dim",
        )
    return fields.size("head_dim", max(d_model // n_heads, 1))


def window(fields: Fields, absent: int | None = None) -> int | None:
    """How many tokens a layer that slides sees, if it slides at all."""
    return fields.optional_size("sliding_window", absent)


def layer_kinds(fields: Fields, n_layers: int, absent: list[str]) -> list[str]:
    """`full` or `sliding` for every layer, from `layer_types` where the file has them."""
    given = fields.items("layer_types", n_layers)
    if given is None:
        return absent
    if any(not isinstance(kind, str) or kind not in _KINDS for kind in given):
        raise fields.wrong("layer_types", f"a list of {', '.join(_KINDS)}")
    return [_KINDS[kind] for kind in given]


def windows(kinds: list[str], size: int | None) -> tuple[int | None, ...]:
    """The window of every layer, from its kind."""
    return tuple(size if kind == "sliding" else None for kind in kinds)


PLAIN = "head_dim num_key_value_heads rms_norm_eps hidden_act attention_bias"
"""What `llama` reads."""
