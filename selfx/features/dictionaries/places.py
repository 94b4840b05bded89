"""Where a dictionary reads: the hook names of other tools, in the words of `selfx.models.sites`.

Two names that look alike may be two places. On models that norm what a layer's halves return
(Gemma 2 and 3, OLMo 2 and 3), TransformerLens's `hook_mlp_out` is what is added to the residual, so
`mlp_out_post`, and a module's own output, `mlp.hook_out` or `layers.3.mlp`, is `mlp_out`. Its
`hook_normalized` is a norm's output before the norm's weight, which no site has: `bare` says so,
and `selfx.features.dictionaries.fold.norm_weight` makes up for it.
"""

from __future__ import annotations

import dataclasses
import math
import re

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.sites import find


@dataclasses.dataclass(frozen=True)
class Place:
    """A site of a layer.

    Attributes:
      site: a name in `selfx.models.sites`.
      layer: which layer; 0 for sites outside the layers.
      bare: whether it is the norm's output before the norm's weight and bias.
    """

    site: str
    layer: int
    bare: bool = False


_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out_post",
    "hook_mlp_out": "mlp_out_post",
    "attn.hook_q": "query",
    "attn.hook_k": "key",
    "attn.hook_v": "value",
    "attn.hook_z": "z",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_act",
    "ln1.hook_normalized": "attn_in",
    "ln2.hook_normalized": "mlp_in",
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
    "attn.hook_in": "attn_in",
    "attn.hook_out": "attn_out",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "mlp_out",
}
"""`{name after blocks.N.: site}`, TransformerLens's own hooks and those of its bridge."""

_MODULES = {
    "": "resid_post",
    "output": "resid_post",
    "input": "resid_pre",
    "mlp": "mlp_out",
    "mlp.output": "mlp_out",
    "mlp.input": "mlp_in",
    "self_attn": "attn_out",
    "self_attn.output": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attn.o_proj.input": "z",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out_post",
}
"""`{name after layers.N.: site}`, modules of transformers and what goes in and out of them."""

_LENS_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
_MODULE_NAME = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h)\.(\d+)(?:\.(.+))?")
_EMBEDDING = re.compile(r"hook_embed|(?:.*\.)?(?:embed_tokens|wte|embed_in)(?:\.output)?")


def place_of(hook: str) -> Place:
    """The site and layer that another tool's hook name stands for.

    Raises:
      SelfxError: it is not known, or stands for different places in different tools.
    """
    if _EMBEDDING.fullmatch(hook):
        return Place("embeddings", 0)
    for pattern, names in ((_LENS_NAME, _LENS), (_MODULE_NAME, _MODULES)):
        match = pattern.fullmatch(hook)
        if match and (match[2] or "") in names:
            name = match[2] or ""
            return Place(names[name], int(match[1]), name.endswith("hook_normalized"))
    raise SelfxError(
        f"the hook {hook!r}",
        expected="a name of TransformerLens (blocks.8.hook_resid_post) or of a module (layers.8)",
        hint="hook_mlp_in is the residual in one tool and the normed residual in another: say "
        "which with site= and layer="
        if hook.endswith("hook_mlp_in")
        else "say where it reads with site= and layer=",
    )


def hook_of(site: str, layer: int) -> str:
    """TransformerLens's name of a site, or its bridge's.

    Raises:
      SelfxError: it has none.
    """
    if site == "embeddings":
        return "hook_embed"
    for name, known in _LENS.items():
        if known == site and not name.endswith("hook_normalized"):
            return f"blocks.{layer}.{name}"
    raise SelfxError(f"{site!r} has no name in TransformerLens", expected=", ".join(_LENS.values()))


def width_of(site: str, config: Config) -> int:
    """How many numbers a token has at a site, heads side by side."""
    return math.prod(find(site, config).feature_shape(config))
