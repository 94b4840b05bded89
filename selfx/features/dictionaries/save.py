"""Writing a dictionary as SAELens does, so that its tools, and this one, read it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from selfx.errors import SelfxError
from selfx.features.dictionaries.places import hook_of
from selfx.features.dictionaries.sae import Gate, Sae
from selfx.files import atomic, write_text
from selfx.models.tap import Array

_NORMS = {"none": "none", "layer": "layer_norm", "constant": "constant_norm_rescale"}
_VERSION = "6.0.0"  # of the layout: files without one are read by older rules


def save_saelens(sae: Sae, path: str | Path) -> None:
    """Writes `cfg.json` and `sae_weights.safetensors` into the folder `path`.

    Raises:
      SelfxError: the layout has no such dictionary, or the folder cannot be written.
    """
    kind = _architecture(sae)
    tensors = _tensors(sae)
    folder = Path(path)
    with atomic(folder / "sae_weights.safetensors") as temporary:
        temporary.write_bytes(save({k: np.ascontiguousarray(v) for k, v in tensors.items()}))
    write_text(folder / "cfg.json", json.dumps(_config(sae, kind), indent=2) + "\n")


def _architecture(sae: Sae) -> str:
    """SAELens's name for the rule and the shape.

    Raises:
      SelfxError: it has none.
    """
    trans = sae.out_site is not None or sae.skip is not None
    plain = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
    between = {
        ("relu", False): "transcoder",
        ("relu", True): "skip_transcoder",
        ("jumprelu", False): "jumprelu_transcoder",
        ("jumprelu", True): "jumprelu_skip_transcoder",
    }
    kind = between.get((sae.rule, sae.skip is not None)) if trans else plain.get(sae.rule)
    if kind is None or (trans and sae.norm != "none"):
        what = "a transcoder" if trans else "an SAE"
        raise SelfxError(
            f"{what} of rule {sae.rule!r} and input norm {sae.norm!r}",
            expected="one that SAELens has: relu, jumprelu, and for SAEs topk and gated; no norm "
            "in a transcoder",
        )
    return kind


def _config(sae: Sae, kind: str) -> dict[str, Any]:
    (d, n), out = np.shape(sae.w_enc), np.shape(sae.w_dec)[1]
    config: dict[str, Any] = {
        "architecture": kind,
        "d_in": d,
        "d_sae": n,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": _NORMS[sae.norm],
        "reshape_activations": "hook_z" if sae.site == "z" else "none",
    }
    if "transcoder" in kind:
        config["d_out"] = out
    if sae.rule == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    about: dict[str, Any] = {"sae_lens_version": _VERSION, "sae_lens_training_version": None}
    about |= {"hook_name": hook_of(sae.site, sae.layer), "hook_head_index": None}
    if sae.out_site is not None:
        about["hook_name_out"] = hook_of(sae.out_site, sae.layer)
    if sae.origin is not None:
        origin = sae.origin
        said: dict[str, Any] = {"model_name": origin.model, "prepend_bos": origin.bos}
        said |= {"context_size": origin.context, "l0": origin.l0, "converted_from": origin.layout}
        about |= {key: value for key, value in said.items() if value is not None}
    about["folds"] = list(sae.folds)
    return {**config, "metadata": about}


def _tensors(sae: Sae) -> dict[str, np.ndarray]:
    """The weights by SAELens's names.

    Latents that are weighed to choose the largest have their weights in the lengths of decoder
    rows, as SAELens compares them before those.
    """
    w_enc, b_enc, w_dec = (_host(part) for part in (sae.w_enc, sae.b_enc, sae.w_dec))
    tensors = {"b_dec": _host(sae.b_dec)}
    if sae.order is not None:
        order = _host(sae.order)
        w_enc, b_enc, w_dec = w_enc * order, b_enc * order, w_dec / order[:, None]
    if sae.gate is not None:
        return {**tensors, "W_dec": w_dec, **_gated(sae.gate, w_enc, b_enc)}
    tensors |= {"W_enc": w_enc, "b_enc": b_enc, "W_dec": w_dec}
    if sae.threshold is not None:
        tensors["threshold"] = _host(sae.threshold)
    if sae.skip is not None:
        tensors["W_skip"] = _host(sae.skip).T
    return tensors


def _gated(gate: Gate, w_enc: np.ndarray, b_enc: np.ndarray) -> dict[str, np.ndarray]:
    """The gate's encoder, and by what factor of each column the magnitudes' differs from it.

    Raises:
      SelfxError: it differs by more.
    """
    w_gate = _host(gate.w)
    length, ours = (np.linalg.norm(w.astype(np.float64), axis=0) for w in (w_gate, w_enc))
    ratio = np.where((length > 0) & (ours > 0), ours, 1) / np.where(length > 0, length, 1)
    if not np.allclose(w_gate * ratio, w_enc, rtol=1e-4, atol=1e-6 * np.abs(w_enc).max()):
        raise SelfxError(
            "a gated SAE whose gate reads other directions than its magnitudes",
            expected="the same, of another length: SAELens stores them once",
        )
    r_mag = np.log(ratio).astype(np.float32)
    return {"W_enc": w_gate, "b_gate": _host(gate.b), "b_mag": b_enc, "r_mag": r_mag}


def _host(part: Array) -> np.ndarray:
    return np.asarray(part, np.float32)
