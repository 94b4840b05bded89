"""dictionary_learning's `ae.pt` and `config.json`: all its classes.

    AutoEncoder                 relu(W (x - bias) + b),  y = D f + bias
    AutoEncoderNew              relu(W x + b),           y = D f + b_D
    GatedAutoEncoder            as AutoEncoder, gated, the encoder shared
    AutoEncoderTopK             the k largest of relu(W (x - b_dec) + b)
    BatchTopKSAE, Matryoshka…   relu(…) where it exceeds one threshold; -1 is one not yet learned
    JumpReluAutoEncoder         nothing taken off its input, a threshold a latent

Source: the library itself, version 0.1.0, and saprmarks/dictionary_learning.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import shift_input
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Gate, Sae

NAME = "dictionary_learning"


def fits(bundle: Bundle) -> bool:
    """Whether the files are dictionary_learning's."""
    return _class(bundle) is not None


def read(bundle: Bundle, given: Given) -> Sae:
    """The dictionary, what is taken off its input folded.

    Raises:
      SelfxError: two classes are saved alike and no config says which.
    """
    trainer = _trainer(bundle)
    name = _class(bundle)
    if name == "TopK or BatchTopK":
        raise SelfxError(
            f"{bundle.name} is an AutoEncoderTopK or a BatchTopKSAE, which are saved alike",
            expected="the config.json that was saved beside it",
        )
    hook = _hook(trainer)
    place, out_site = where(given, hook)
    buffer = bundle.config("config.json").get("buffer") or {}
    sae: Sae = _READERS[str(name)](bundle, given)
    return dataclasses.replace(
        sae,
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            NAME,
            model=trainer.get("lm_name"),
            hook=trainer.get("submodule_name") or hook,
            context=buffer.get("ctx_len"),
            l0=trainer.get("k"),
        ),
    )


def _trainer(bundle: Bundle) -> Mapping[str, Any]:
    return bundle.config("config.json").get("trainer") or {}


def _class(bundle: Bundle) -> str | None:
    """The class, as the config names it or the tensors tell; None if it is none of them."""
    declared = _trainer(bundle).get("dict_class")
    if declared in _READERS:
        return str(declared)
    linear = bundle.has("encoder.weight", "decoder.weight")
    if bundle.has("W_enc", "W_dec", "group_sizes"):
        return "MatryoshkaBatchTopKSAE"
    if bundle.has("W_enc", "W_dec", "threshold", "b_dec") and bundle.file.suffix == ".pt":
        return None if bundle.has("k") else "JumpReluAutoEncoder"
    if linear and bundle.has("b_dec", "k"):
        return "TopK or BatchTopK"
    if linear and bundle.has("r_mag", "gate_bias", "mag_bias", "decoder_bias"):
        return "GatedAutoEncoder"
    if linear and bundle.has("encoder.bias", "bias"):
        return "AutoEncoder"
    plain = linear and bundle.has("encoder.bias", "decoder.bias")
    return "AutoEncoderNew" if plain and bundle.file.suffix in (".pt", ".pth") else None


def _hook(trainer: Mapping[str, Any]) -> str | None:
    """The module that it reads, in transformers' words; without a name, a layer's output."""
    layer, name = trainer.get("layer"), str(trainer.get("submodule_name") or "")
    if layer is None:
        return None
    module = re.sub(r"_?layer_?\d+|\d+", "", name).strip("_.")
    words = {"": "", "resid_post": "", "resid_pre": ".input", "mlp": ".mlp", "mlp_out": ".mlp"}
    words |= {"attn": ".self_attn", "attn_out": ".self_attn", "attention": ".self_attn"}
    return f"layers.{layer}{words[module]}" if module in words else name


def _auto_encoder(bundle: Bundle, given: Given) -> Sae:
    w, b, d, bias = bundle.take("encoder.weight", "encoder.bias", "decoder.weight", "bias")
    return shift_input(Sae(w.T, b, d.T, bias), bias, "bias")


def _auto_encoder_new(bundle: Bundle, given: Given) -> Sae:
    w, b, d, bias = bundle.take("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    return Sae(w.T, b, d.T, bias)


def _gated(bundle: Bundle, given: Given) -> Sae:
    w, d, bias = bundle.take("encoder.weight", "decoder.weight", "decoder_bias")
    r_mag, gate, magnitude = bundle.take("r_mag", "gate_bias", "mag_bias")
    sae = Sae(w.T * np.exp(r_mag), magnitude, d.T, bias, gate=Gate(w.T, gate), rule="gated")
    return shift_input(sae, bias, "decoder_bias")


def _top_k(bundle: Bundle, given: Given) -> Sae:
    w, b, d, bias, k = bundle.take("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k")
    return shift_input(Sae(w.T, b, d.T, bias, rule="topk", k=given.k or int(k)), bias, "b_dec")


def _batch_top_k(bundle: Bundle, given: Given) -> Sae:
    w, b, d, bias = bundle.take("encoder.weight", "encoder.bias", "decoder.weight", "b_dec")
    return _thresholded(Sae(w.T, b, d.T, bias), bundle, given)


def _matryoshka(bundle: Bundle, given: Given) -> Sae:
    w, b, d, bias = bundle.take("W_enc", "b_enc", "W_dec", "b_dec")
    return _thresholded(Sae(w, b, d, bias), bundle, given)


def _thresholded(sae: Sae, bundle: Bundle, given: Given) -> Sae:
    """With the one threshold that a batch's top-k became; one below 0 was never learned."""
    threshold, k = (float(each) for each in bundle.take("threshold", "k"))
    sae = shift_input(sae, sae.b_dec, "b_dec")
    if threshold < 0:
        note = "its threshold was never learned, so the k largest of each token are on"
        return dataclasses.replace(sae, rule="topk", k=given.k or int(k), folds=(*sae.folds, note))
    whole = np.full(np.shape(sae.b_enc), threshold, np.float32)
    return dataclasses.replace(sae, rule="jumprelu", threshold=whole)


def _jump_relu(bundle: Bundle, given: Given) -> Sae:
    w, b, d, bias, threshold = bundle.take("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    return Sae(w, b, d, bias, threshold=threshold, rule="jumprelu")


_READERS: dict[str, Callable[[Bundle, Given], Sae]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}
"""`{dict_class: its reader}`."""
