"""Per-layer transcoders as circuit-tracer has them: `layer_{l}.safetensors` and `config.yaml`.

    f = act(W_enc x + b_enc);  y = f W_dec + b_dec [+ x W_skipᵀ]      W_enc [n, d], W_dec [n, d]

ReLU, or the k largest where the file has `k`, or JumpReLU where it has a threshold.

Source: decoderesearch/circuit-tracer, `SingleLayerTranscoder.to_safetensors`.
"""

from __future__ import annotations

import re

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Sae

NAME = "circuit_tracer"

_THRESHOLD = "activation_function.threshold"


def fits(bundle: Bundle) -> bool:
    """Whether the file is one of circuit-tracer's."""
    return bundle.file.stem.startswith("layer_") and bundle.has("W_enc", "W_dec", "b_enc", "b_dec")


def read(bundle: Bundle, given: Given) -> Sae:
    """The transcoder as it is.

    Raises:
      SelfxError: matrices of another shape.
    """
    w_enc, b_enc, w_dec, b_dec = bundle.take("W_enc", "b_enc", "W_dec", "b_dec")
    if w_enc.shape[0] != len(b_enc) or w_dec.ndim != 2:
        raise SelfxError(
            f"{bundle.name} has W_enc {list(w_enc.shape)} and W_dec {list(w_dec.shape)}",
            expected="[n, d] and [n, d], of one layer",
        )
    layer = bundle.number(r"layer_(\d+)\.safetensors")
    into = _said(bundle, "feature_input_hook") or "mlp.hook_in"
    out = _said(bundle, "feature_output_hook") or "hook_mlp_out"
    place, out_site = where(given, f"blocks.{layer}.{into}", f"blocks.{layer}.{out}")
    skip, k = bundle.tensors.get("W_skip"), bundle.tensors.get("k")
    threshold = bundle.tensors.get(_THRESHOLD)
    if threshold is not None:
        threshold = np.broadcast_to(threshold.reshape(-1), b_enc.shape)
    return Sae(
        w_enc.T,
        b_enc,
        w_dec,
        b_dec,
        threshold=threshold,
        skip=None if skip is None else skip.T,
        rule="jumprelu" if threshold is not None else "topk" if k is not None else "relu",
        k=0 if k is None else given.k or int(k),
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            NAME, model=_said(bundle, "model_name"), hook=f"blocks.{layer}.{into}", bare=place.bare
        ),
    )


def _said(bundle: Bundle, key: str) -> str | None:
    """What `config.yaml` has under a key of its top level."""
    text = bundle.texts.get("config.yaml", "")
    match = re.search(rf"^{key}:\s*[\"']?([^\"'#\n]+?)[\"']?\s*$", text, re.MULTILINE)
    return match[1] if match else None
