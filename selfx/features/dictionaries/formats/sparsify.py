"""EleutherAI's sparsify: `{hookpoint}/cfg.json` and `{hookpoint}/sae.safetensors`.

    f = k largest of relu(W (x - b_dec) + b);  y = f W_dec + b_dec [+ x W_skipᵀ]

A transcoder takes nothing off its input. The hookpoint, a module of transformers, is the folder's
name: `layers.5` is what a layer leaves, `layers.5.mlp` what its MLP returns, and for a transcoder
what it reads as well.

Source: the library itself, version 1.3.
"""

from __future__ import annotations

import re

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import shift_input
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Sae

NAME = "sparsify"


def fits(bundle: Bundle) -> bool:
    """Whether the files are sparsify's."""
    return "k" in bundle.config("cfg.json") and bundle.has("encoder.weight", "W_dec", "b_dec")


def read(bundle: Bundle, given: Given) -> Sae:
    """The dictionary, what is taken off its input folded.

    Raises:
      SelfxError: an activation that is not known, or lets negative numbers through.
    """
    config = bundle.config("cfg.json")
    kind = config.get("activation", "topk")
    if kind not in ("topk", "groupmax") or config.get("signed"):
        raise SelfxError(
            f"{bundle.name} has the activation {kind!r}"
            + (" of numbers of either sign" if config.get("signed") else ""),
            expected="topk or groupmax, of what is positive",
        )
    w_enc, b_enc, w_dec, b_dec = bundle.take("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    skip = bundle.tensors.get("W_skip")
    trans, hook = bool(config.get("transcode")), _hook(bundle)
    into = f"{hook}.input" if trans and hook is not None else hook
    place, out_site = where(given, into, hook if trans else None)
    above = bundle.config("config.json")
    sae = Sae(
        w_enc.T,
        b_enc,
        w_dec,
        b_dec,
        skip=None if skip is None else np.ascontiguousarray(skip.T),
        rule=kind,
        k=given.k or int(config["k"]),
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            NAME,
            model=above.get("model"),
            hook=hook,
            context=above.get("ctx_len"),
            l0=float(config["k"]),
        ),
    )
    return sae if trans else shift_input(sae, b_dec, "b_dec")


def _hook(bundle: Bundle) -> str | None:
    """The hookpoint in the path's last parts that are one."""
    parts = [part for part in bundle.name.split("/") if part]
    form = re.compile(
        r"(?:[a-z_]+\.)*(?:layers|h)\.\d+(?:\.\w+)*|(?:\w+\.)*(?:embed_tokens|wte|embed_in)"
    )
    return next((part for part in reversed(parts) if form.fullmatch(part)), None)
