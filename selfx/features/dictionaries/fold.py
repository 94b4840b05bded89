"""Steps that bring a dictionary to the canonical form, each exact, each written into `folds`.

Every step returns a dictionary that gives the same reconstruction for the activation that the
model has. The sums run on the host, in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.places import width_of
from selfx.features.dictionaries.sae import Gate, Sae
from selfx.models.config import Config
from selfx.models.decoder import Decoder
from selfx.models.tap import Array

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`(w [d, n], b [n])` of an encoder, to the same of another."""

UNIT = 1e-6
"""How far from 1 the length of a decoder row may be for there to be nothing to fold."""


def unit_decoder(sae: Sae) -> Sae:
    """With decoder rows of unit length, their lengths in the encoder and the thresholds.

    A row of zeros stays: its latent writes nothing. Where the `k` largest latents are chosen, they
    are weighed as before, so the choice is the same.
    """
    w_dec = np.asarray(sae.w_dec, np.float32)
    length = np.linalg.norm(w_dec, axis=1)
    length = np.where(length > 0, length, 1).astype(np.float32)
    if np.abs(length - 1).max(initial=0) <= UNIT:
        return sae
    order = _weighed(sae, length)
    return dataclasses.replace(
        sae,
        w_enc=np.asarray(sae.w_enc) * length,
        b_enc=np.asarray(sae.b_enc) * length,
        w_dec=w_dec / length[:, None],
        threshold=None if sae.threshold is None else np.asarray(sae.threshold) * length,
        order=order,
        folds=(
            *sae.folds,
            f"decoder rows of length {length.min():.3g} to {length.max():.3g} made unit"
            + (", the choice of the largest left as it was" if order is not None else ""),
        ),
    )


def shift_input(sae: Sae, bias: Array, name: str) -> Sae:
    """For one trained on `x - bias`: the bias `[d]` in `b_enc`, and in the gate's."""
    bias = np.asarray(bias, np.float32)
    if not bias.any():
        return sae
    return _onto_encoder(
        sae, lambda w, b: (w, b - bias @ w), f"{name}, taken off the input, put into b_enc"
    )


def scale_activations(sae: Sae, into: float, out: float) -> Sae:
    """For one trained on `x * into` to give `y * out`: both factors in the weights."""
    if into == out == 1:
        return sae
    scaled = _onto_encoder(
        sae,
        lambda w, b: (w * np.float32(into), b),
        f"input times {into:.6g} and output times {out:.6g} in training, put into the weights",
    )
    return dataclasses.replace(
        scaled,
        w_dec=np.asarray(sae.w_dec) / np.float32(out),
        b_dec=np.asarray(sae.b_dec) / np.float32(out),
        skip=None if sae.skip is None else np.asarray(sae.skip) * np.float32(into / out),
    )


def centre_input(sae: Sae) -> Sae:
    """For one trained on activations less their mean over `d`: that step in the encoder."""
    return _onto_encoder(
        sae,
        lambda w, b: (w - w.mean(axis=0), b),
        "the input's mean over its width, taken off in training, put into w_enc; what is "
        "reconstructed has none",
    )


def norm_weight(sae: Sae, model: Decoder) -> Sae:
    """For one trained on a norm's output before its weight and bias: those of `model` put in.

    Raises:
      SelfxError: there is no such norm, or a weight of it is 0.
    """
    name = {"attn_in": "attn_norm", "mlp_in": "mlp_norm"}.get(sae.site)
    norm = getattr(model.blocks, name) if name else None
    if norm is None:
        raise SelfxError(
            f"an SAE of the normed residual at {sae.site!r}",
            expected="a model that norms before its attention and MLP",
        )
    check_width(sae, model.config)
    w, b = _weight_bias(norm.w[...], None if norm.b is None else norm.b[...], sae.layer)
    w = w + 1 if model.config.norm == "rms_plus_one" else w
    if not w.all():
        raise SelfxError(
            f"layer {sae.layer}'s norm of {sae.site!r} has weights of 0",
            expected="a norm that loses nothing, so that its weight can be taken off again",
        )
    folded = _onto_encoder(
        sae,
        lambda enc, bias: (enc / w[:, None], bias - (b / w) @ enc),
        "the norm's weight, not yet applied in training, taken off in w_enc",
    )
    if sae.skip is None:
        return folded
    skip = np.asarray(sae.skip) / w[:, None]
    return dataclasses.replace(folded, skip=skip, b_dec=np.asarray(sae.b_dec) - b @ skip)


def check_width(sae: Sae, config: Config) -> None:
    """Raises SelfxError where a model has no such place, or not of this width."""
    ends = ((sae.site, sae.w_enc.shape[0]), (sae.target, sae.w_dec.shape[1]))
    for site, width in ends:
        if width_of(site, config) != width:
            raise SelfxError(
                f"an SAE of width {width} for {site!r} of a model where it is "
                f"{width_of(site, config)} wide",
                expected="the model, and the site, that it was trained on",
            )
    if not 0 <= sae.layer < config.n_layers:
        raise SelfxError(
            f"an SAE of layer {sae.layer}", expected=f"a layer from 0 to {config.n_layers - 1}"
        )


def _weighed(sae: Sae, length: np.ndarray) -> np.ndarray | None:
    """By what latents `length` times as large are weighed as they were; None if by their value."""
    if sae.rule not in ("topk", "groupmax"):
        return None
    order = (1 if sae.order is None else np.asarray(sae.order)) / length
    return None if np.allclose(order, order[0], rtol=1e-6, atol=0) else order


def _weight_bias(w: Array, b: Array | None, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """A layer's share of a norm's stacked weight and bias, the bias 0 where there is none."""
    weight = np.asarray(w, np.float32)[layer]
    return weight, np.zeros_like(weight) if b is None else np.asarray(b, np.float32)[layer]


def _onto_encoder(sae: Sae, change: Change, note: str) -> Sae:
    """With `change(w, b)` made to the encoder, and to the gate where there is one."""
    w, b = change(np.asarray(sae.w_enc, np.float32), np.asarray(sae.b_enc, np.float32))
    gate = sae.gate
    if gate is not None:
        gate = Gate(*change(np.asarray(gate.w, np.float32), np.asarray(gate.b, np.float32)))
    return dataclasses.replace(sae, w_enc=w, b_enc=b, gate=gate, folds=(*sae.folds, note))
