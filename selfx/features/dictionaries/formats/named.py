"""Layouts whose tensors say little and whose names say the rest: Goodfire's, and Qwen-Scope's.

    Goodfire     encoder_linear, decoder_linear, as torch's maps;  relu;  …-SAE-l19.pth
    Qwen-Scope   W_enc [n, d], W_dec [d, n], the other way round than elsewhere;  the k largest, k
                 in the repository's name;  SAE-Res-…-W32K-L0_50/layer7.sae.pt

Neither takes anything off its input, and both read what a layer leaves.
"""

from __future__ import annotations

import re

from selfx.errors import SelfxError
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Sae

_GOODFIRE = ("encoder_linear.weight", "encoder_linear.bias")
_GOODFIRE_DECODER = ("decoder_linear.weight", "decoder_linear.bias")


def fits_goodfire(bundle: Bundle) -> bool:
    """Whether the file is Goodfire's."""
    return bundle.has(*_GOODFIRE, *_GOODFIRE_DECODER)


def read_goodfire(bundle: Bundle, given: Given) -> Sae:
    """The dictionary as it is."""
    (w, b), (d, bias) = bundle.take(*_GOODFIRE), bundle.take(*_GOODFIRE_DECODER)
    layer = bundle.number(r"SAE-l(\d+)")
    hook = None if layer is None else f"layers.{layer}"
    place, out_site = where(given, hook)
    model = re.search(r"([\w.-]+?)-SAE-l\d+", bundle.name)
    return Sae(
        w.T,
        b,
        d.T,
        bias,
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin("goodfire", model=model and model[1], hook=hook),
    )


def fits_qwen_scope(bundle: Bundle) -> bool:
    """Whether the file is Qwen-Scope's."""
    tensors = bundle.tensors
    return bundle.file.name.endswith(".sae.pt") and tensors.keys() == {
        "W_enc",
        "W_dec",
        "b_enc",
        "b_dec",
    }


def read_qwen_scope(bundle: Bundle, given: Given) -> Sae:
    """The dictionary as it is.

    Raises:
      SelfxError: neither the name nor the caller says how many latents are on.
    """
    w_enc, b_enc, w_dec, b_dec = bundle.take("W_enc", "b_enc", "W_dec", "b_dec")
    k = given.k or bundle.number(r"-L0_(\d+)")
    if k is None:
        raise SelfxError(
            f"how many latents of {bundle.name} are on is in the name of its repository alone",
            expected="a path with …-L0_50 in it",
            hint="give it: k=50",
        )
    layer = bundle.number(r"layer_?(\d+)\.sae\.pt")
    hook = None if layer is None else f"layers.{layer}"
    place, out_site = where(given, hook)
    model = re.search(r"SAE-Res-(.+)-W\d+K-L0_\d+", bundle.name)
    return Sae(
        w_enc.T,
        b_enc,
        w_dec.T,
        b_dec,
        rule="topk",
        k=k,
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            "qwen_scope", model=f"Qwen/{model[1]}" if model else None, hook=hook, l0=float(k)
        ),
    )
