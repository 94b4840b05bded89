"""Llama Scope, its R1-Distill successor, and what its library has saved since.

    x' = x * s_in;  pre = x' W + b;  score = pre * ‖decoder row‖;  f = pre where score > threshold
    y = (f D + b_D) / s_out            s = sqrt(d) / mean length of the activations at the hook

Trained as top-k; published as JumpReLU with one threshold, found later, after the scales and the
decoder's lengths had gone into the weights: there it is compared in the units of the activation,
as it is stored. A threshold a latent (`log_jumprelu_threshold`) is a trained one, of the score
above. SAELens multiplies the published threshold by `s_in` and leaves the decoder's lengths: the
same where they are 1, latents `s_in` times as large.

Source: arXiv 2410.20526, and the library at its releases of 2024-10, 2025-03 and 2026-05.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import scale_activations, shift_input, unit_decoder
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Sae

NAME = "llama_scope"

_NORMS = ("dataset-wise", "token-wise", "none", "inference")
_NORM_KEY = "dataset_average_activation_norm"


def fits(bundle: Bundle) -> bool:
    """Whether the files are Llama Scope's."""
    config = _config(bundle)
    linear = bundle.has("encoder.weight", "encoder.bias", "decoder.weight")
    return "norm_activation" in config and (linear or bundle.has("W_E", "b_E", "W_D"))


def read(bundle: Bundle, given: Given) -> Sae:
    """The dictionary, scales folded.

    Raises:
      SelfxError: a part that is not known, or a scale that the files do not hold.
    """
    config = _config(bundle)
    norm = config["norm_activation"]
    if norm not in _NORMS or config.get("use_glu_encoder"):
        raise SelfxError(
            f"{bundle.name} norms its input {norm}"
            + (", and its encoder is gated" if config.get("use_glu_encoder") else ""),
            expected=f"one of {', '.join(_NORMS)}, and a linear encoder",
        )
    hooks = config["hook_point_in"], config.get("hook_point_out") or config["hook_point_in"]
    place, out_site = where(given, hooks[0], None if hooks[0] == hooks[1] else hooks[1])
    w_enc, b_enc, w_dec, b_dec = _tensors(bundle)
    sae = Sae(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        norm="constant" if norm == "token-wise" else "none",
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            NAME,
            model=config.get("model_name", "meta-llama/Llama-3.1-8B"),
            hook=hooks[0],
            bos=True,
            context=1024,
            l0=config.get("top_k"),
            bare=place.bare,
        ),
    )
    if config.get("apply_decoder_bias_to_pre_encoder", False):
        sae = shift_input(sae, b_dec, "the decoder's bias")
    scales = _scales(bundle, config, given, hooks) if norm == "dataset-wise" else (1.0, 1.0)
    return _ruled(sae, bundle, config, scales, given)


def _config(bundle: Bundle) -> Mapping[str, Any]:
    return bundle.config("hyperparams.json", "config.json")


def _tensors(bundle: Bundle) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`w_enc [d, n], b_enc, w_dec [n, d], b_dec` under either set of names."""
    if bundle.has("W_E"):
        w_enc, b_enc, w_dec = bundle.take("W_E", "b_E", "W_D")
        b_dec = bundle.tensors.get("b_D")
    else:
        w_enc, b_enc, w_dec = bundle.take("encoder.weight", "encoder.bias", "decoder.weight")
        w_enc, w_dec, b_dec = w_enc.T, w_dec.T, bundle.tensors.get("decoder.bias")
    return w_enc, b_enc, w_dec, np.zeros(w_dec.shape[1], np.float32) if b_dec is None else b_dec


def _scales(
    bundle: Bundle, config: Mapping[str, Any], given: Given, hooks: tuple[str, str]
) -> tuple[float, float]:
    """What activations in and out were multiplied by in training."""
    if given.scale is not None:
        return given.scale, given.scale
    stored = config.get(_NORM_KEY) or {}
    root = math.sqrt(config["d_model"])
    scales = []
    for end, hook in zip(("in", "out"), hooks, strict=True):
        length = stored.get(end, stored.get(hook, bundle.tensors.get(f"{_NORM_KEY}.{hook}")))
        if length is None:
            raise SelfxError(
                f"{bundle.name} was trained on scaled activations, and its files do not say by "
                "what",
                expected="the factor, sqrt(d) over the mean length of its activations",
                hint="give it as scale=; registries of SAELens list it as norm_scaling_factor",
            )
        scales.append(root / float(length))
    return scales[0], scales[1]


def _ruled(
    sae: Sae, bundle: Bundle, config: Mapping[str, Any], scales: tuple[float, float], given: Given
) -> Sae:
    """With its rule, and the scales folded."""
    rule, by_length = (
        str(config["act_fn"]).lower(),
        config.get("sparsity_include_decoder_norm", True),
    )
    length = np.linalg.norm(np.asarray(sae.w_dec), axis=1) if by_length else np.ones_like(sae.b_enc)
    trained = _trained_threshold(bundle)
    if rule == "jumprelu" and trained is not None:
        sae = dataclasses.replace(sae, rule="jumprelu", threshold=trained / length)
    elif rule == "jumprelu":
        return _published(sae, float(config["jump_relu_threshold"]), scales, bool(by_length))
    elif rule == "topk":
        k = given.k or int(config["top_k"])
        sae = dataclasses.replace(sae, rule="topk", k=k, order=length if by_length else None)
    elif rule != "relu":
        raise SelfxError(
            f"{bundle.name} has the activation {rule!r}", expected="jumprelu, topk or relu"
        )
    return scale_activations(sae, *scales)


def _trained_threshold(bundle: Bundle) -> np.ndarray | None:
    names = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
    found = [bundle.tensors[name] for name in names if bundle.has(name)]
    return np.exp(found[0]) if found else None


def _published(sae: Sae, threshold: float, scales: tuple[float, float], by_length: bool) -> Sae:
    """With the one threshold of the published files, in the units where it was found.

    The scales go into biases and decoder alone, so that latents are as large as activations.
    """
    into, out = scales
    note = f"input times {into:.6g} and output times {out:.6g} in training, put into the weights"
    sae = dataclasses.replace(
        sae,
        b_enc=np.asarray(sae.b_enc) / np.float32(into),
        w_dec=np.asarray(sae.w_dec) * np.float32(into / out),
        b_dec=np.asarray(sae.b_dec) / np.float32(out),
        folds=(*sae.folds, note),
    )
    sae = unit_decoder(sae) if by_length else sae
    whole = np.full(sae.b_enc.shape, threshold, np.float32)
    note = f"the threshold {threshold:.6g} for all, compared after those steps"
    return dataclasses.replace(sae, rule="jumprelu", threshold=whole, folds=(*sae.folds, note))
