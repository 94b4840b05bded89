"""Gemma Scope, both generations: `params.npz`, or `params.safetensors` and `config.json`.

    pre = x @ w_enc + b_enc;  f = pre * (pre > threshold);  y = f @ w_dec + b_dec [+ x @ affine]

JumpReLU, nothing taken off, no norm. The sites are in the names of repository and folder: `res` is
what a layer leaves; `mlp` what its MLP adds to the residual, so after the norm that follows it;
`att` the heads' mixed values, before the output map. Transcoders of the first generation read the
normed residual before the norm's weight, those of the second after it.

Source: arXiv 2408.05147, and the layouts of google/gemma-scope-* and google/gemma-scope-2-*.
"""

from __future__ import annotations

import math
import re

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import scale_activations
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Sae

NAME = "gemma_scope"

_FIRST = {
    "transcoders": ("blocks.{}.ln2.hook_normalized", "blocks.{}.hook_mlp_out"),
    "res": ("blocks.{}.hook_resid_post", None),
    "mlp": ("blocks.{}.hook_mlp_out", None),
    "att": ("blocks.{}.attn.hook_z", None),
}
"""`{word at the end of a repository's name: hooks in and out}`."""

_SECOND = {
    "transcoder": ("layers.{}.pre_feedforward_layernorm.output", "blocks.{}.hook_mlp_out"),
    "resid_post": ("blocks.{}.hook_resid_post", None),
    "attn_out": ("blocks.{}.attn.hook_z", None),
    "mlp_out": ("blocks.{}.hook_mlp_out", None),
}
"""`{word in a folder's name: hooks in and out}`; its `attn_out` is what the output map reads."""


def fits(bundle: Bundle) -> bool:
    """Whether the files are Gemma Scope's."""
    names = {name.lower() for name in bundle.tensors}
    return bundle.file.stem == "params" and names >= {"w_enc", "w_dec", "threshold"}


def read(bundle: Bundle, given: Given) -> Sae:
    """The dictionary as it is.

    Raises:
      SelfxError: the names do not say where it reads; it writes to several layers.
    """
    parts = {name.lower(): values for name, values in bundle.tensors.items()}
    if parts["w_dec"].ndim != 2:
        raise SelfxError(
            f"{bundle.name} writes to several layers", expected="a dictionary of one layer"
        )
    hook, out_hook = _hooks(bundle)
    place, out_site = where(given, hook, out_hook)
    sae = Sae(
        parts["w_enc"],
        parts["b_enc"],
        parts["w_dec"],
        parts["b_dec"],
        threshold=parts["threshold"],
        skip=parts.get("affine_skip_connection"),
        rule="jumprelu",
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            NAME,
            model=_model(bundle),
            hook=hook,
            bos=True,
            context=1024,
            l0=bundle.number(r"average_l0_(\d+)"),
            bare=place.bare,
        ),
    )
    if place.site != "embeddings":
        return sae
    root = math.sqrt(sae.w_enc.shape[0])  # trained on embeddings before the model scales them
    return scale_activations(sae, 1 / root, 1 / root)


def _hooks(bundle: Bundle) -> tuple[str | None, str | None]:
    """The hooks that a config declares, or the names imply."""
    config = bundle.config("config.json")
    if isinstance(config.get("hf_hook_point_in"), str):
        out = config.get("hf_hook_point_out")
        same = out is None or out == config["hf_hook_point_in"]
        return config["hf_hook_point_in"], None if same else out
    if "embedding" in bundle.name:
        return "hook_embed", None
    layer = bundle.number(r"layer_(\d+)")
    if layer is None:
        return None, None
    repo = re.search(r"gemma-scope-(?!2-)\w+-(?:pt|it)-(\w+)", bundle.name)
    if repo and repo[1] in _FIRST:
        pair: tuple[str, str | None] | None = _FIRST[repo[1]]
    else:
        pair = next((pair for word, pair in _SECOND.items() if word in bundle.name), None)
    if pair is None:
        return None, None
    return pair[0].format(layer), pair[1] and pair[1].format(layer)


def _model(bundle: Bundle) -> str | None:
    """The model's hub id."""
    said = bundle.config("config.json").get("model_name")
    if isinstance(said, str):
        return said
    match = re.search(r"gemma-scope-(2-)?(\w+)-(pt|it)", bundle.name)
    if match is None:
        return None
    if match[1]:
        return f"google/gemma-3-{match[2]}-{match[3]}"
    return f"google/gemma-2-{match[2]}" + ("-it" if match[3] == "it" else "")
