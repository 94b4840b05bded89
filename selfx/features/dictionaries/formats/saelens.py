"""SAELens's folders, `cfg.json` and `sae_weights.safetensors`, of version 6 and before.

    pre = (norm(x) - b_dec) @ W_enc + b_enc        # b_dec where apply_b_dec_to_input says so
    y = norm⁻¹(f @ W_dec + b_dec)

Source: the library itself, versions 2 to 6.54; what is written here is what it computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import centre_input, scale_activations, shift_input
from selfx.features.dictionaries.formats.bundle import Bundle, Given, where
from selfx.features.dictionaries.sae import Gate, Norm, Sae

NAME = "saelens"

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_PLAIN = ("standard", "transcoder", "skip_transcoder")
_JUMP = ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder", "batchtopk")
_NORMS: Mapping[Any, Norm] = {
    None: "none",
    False: "none",
    "none": "none",
    "layer_norm": "layer",
    "constant_norm_rescale": "constant",
}
_AVERAGE = (True, "expected_average_only_in")


def fits(bundle: Bundle) -> bool:
    """Whether the files are SAELens's."""
    config = bundle.config("cfg.json")
    return "d_sae" in config and bundle.has("W_enc", "W_dec", "b_dec")


def read(bundle: Bundle, given: Given) -> Sae:
    """The dictionary, all that can be folded folded, but for the lengths of decoder rows.

    Raises:
      SelfxError: an architecture, or a way to norm its input, that is not known; a scale that the
        files do not hold.
    """
    config = modern(bundle.config("cfg.json"))
    about = config["metadata"]
    place, out_site = where(given, about.get("hook_name"), about.get("hook_name_out"))
    if about.get("hook_head_index") is not None:
        raise SelfxError(
            f"{bundle.name} reads head {about['hook_head_index']} alone",
            expected="a dictionary of all heads, side by side",
        )
    sae = dataclasses.replace(
        _weights(bundle, config, given),
        site=place.site,
        layer=place.layer,
        out_site=out_site,
        origin=bundle.origin(
            NAME,
            model=about.get("model_name"),
            hook=about.get("hook_name"),
            bos=about.get("prepend_bos"),
            context=about.get("context_size"),
            l0=_l0(bundle) or about.get("l0"),
            bare=place.bare,
        ),
    )
    if config.get("apply_b_dec_to_input", True) and "transcoder" not in config["architecture"]:
        sae = shift_input(sae, sae.b_dec, "b_dec")
    sae = _normed(sae, bundle, config, given)
    if (about.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"):
        sae = centre_input(sae)
    return sae


def modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `cfg.json` of any version in the keys of version 6."""
    flat = {_RENAMED.get(key, key): value for key, value in config.items()}
    about = dict(flat.pop("metadata", None) or {})
    if not about:
        about = {"prepend_bos": True, **flat}
    kwargs = flat.get("activation_fn_kwargs") or {}
    if flat.get("activation_fn") == "topk" and kwargs.get("k") is not None:
        flat |= {"architecture": "topk", "k": kwargs["k"]}
    flat.setdefault("architecture", "standard")
    return {**flat, "metadata": about}


def _weights(bundle: Bundle, config: Mapping[str, Any], given: Given) -> Sae:
    """The tensors as they are, under the rule that the architecture names."""
    kind = config["architecture"]
    w_enc, w_dec, b_dec = bundle.take("W_enc", "W_dec", "b_dec")
    if kind == "gated":
        b_gate, b_mag, r_mag = bundle.take("b_gate", "b_mag", "r_mag")
        gate = Gate(w_enc, b_gate)
        return Sae(w_enc * np.exp(r_mag), b_mag, w_dec, b_dec, gate=gate, rule="gated")
    (b_enc,) = bundle.take("b_enc")
    sae = Sae(w_enc, b_enc, w_dec, b_dec)
    if kind in _JUMP:
        return dataclasses.replace(
            sae, threshold=_threshold(bundle, config), rule="jumprelu", skip=_skip(bundle)
        )
    if kind == "topk":
        norms = (
            np.linalg.norm(w_dec, axis=1) if config.get("rescale_acts_by_decoder_norm") else None
        )
        return dataclasses.replace(sae, rule="topk", k=given.k or int(config["k"]), order=norms)
    if kind in _PLAIN and config.get("activation_fn") in (None, "relu"):
        return dataclasses.replace(sae, skip=_skip(bundle), w_dec=_tuned(bundle, w_dec))
    activation = config.get("activation_fn") or "its own"
    raise SelfxError(
        f"{bundle.name} is a {kind!r} SAE with {activation} activation",
        expected=f"one of gated, topk, {', '.join((*_PLAIN, *_JUMP))}, with ReLU where it is plain",
    )


def _threshold(bundle: Bundle, config: Mapping[str, Any]) -> np.ndarray:
    """`[n]`; a BatchTopK SAE that is still in training has one for all, after decoder norms."""
    if not bundle.has("topk_threshold"):
        return bundle.take("threshold")[0]
    (w_dec,) = bundle.take("W_dec")
    whole = np.full(len(w_dec), bundle.tensors["topk_threshold"], np.float32)
    return (
        whole / np.linalg.norm(w_dec, axis=1) if config["rescale_acts_by_decoder_norm"] else whole
    )


def _skip(bundle: Bundle) -> np.ndarray | None:
    """`[d, d_out]`; stored the other way round."""
    return bundle.tensors["W_skip"].T if bundle.has("W_skip") else None


def _tuned(bundle: Bundle, w_dec: np.ndarray) -> np.ndarray:
    """The decoder with what versions before 6 multiplied each latent by after training."""
    factor = bundle.tensors.get("scaling_factor", bundle.tensors.get("finetuning_scaling_factor"))
    return w_dec if factor is None else w_dec * factor[:, None]


def _normed(sae: Sae, bundle: Bundle, config: Mapping[str, Any], given: Given) -> Sae:
    """With the norm of its input: folded if it is one factor for all."""
    name = config.get("normalize_activations")
    if name in _AVERAGE:
        stored = bundle.config("activation_scaler.json").get("scaling_factor")
        scale = given.scale if given.scale is not None else stored
        if scale is None:
            raise SelfxError(
                f"{bundle.name} was trained on scaled activations, and its files do not say by "
                "what",
                expected="the factor, sqrt(d) over the mean length of its activations",
                hint="give it as scale=, or scale=1 if it is in the weights already",
            )
        return scale_activations(sae, scale, scale)
    if name not in _NORMS or (_NORMS[name] != "none" and "transcoder" in config["architecture"]):
        raise SelfxError(
            f"{bundle.name} norms its input by {name!r}",
            expected="none, layer_norm, constant_norm_rescale or expected_average_only_in, and no "
            "norm of each token in a transcoder",
        )
    return dataclasses.replace(sae, norm=_NORMS[name])


def _l0(bundle: Bundle) -> float | None:
    """The mean number of latents on: the sum of what `sparsity.safetensors` has as logarithms."""
    file = bundle.file.with_name("sparsity.safetensors")
    if not file.is_file():
        return None
    shares = dataclasses.replace(bundle, file=file).take("sparsity")[0]
    return float(np.power(10.0, shares.astype(np.float64)).sum())
