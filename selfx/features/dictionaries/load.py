"""Dictionaries from files and hubs, whatever tool wrote them, in the canonical form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.fold import check_width, norm_weight, unit_decoder
from selfx.features.dictionaries.formats import (
    circuit,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    named,
    saelens,
    sparsify,
)
from selfx.features.dictionaries.formats.bundle import Bundle, Given, bundle_of
from selfx.features.dictionaries.locate import find_weights
from selfx.features.dictionaries.sae import Gate, Sae
from selfx.models.decoder import Decoder
from selfx.models.sites import find

Reader = Callable[[Bundle, Given], Sae]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published layout: whether files are of it, and how they are read."""

    fits: Callable[[Bundle], bool]
    read: Reader


LAYOUTS: dict[str, Layout] = {
    "saelens": Layout(saelens.fits, saelens.read),
    "sparsify": Layout(sparsify.fits, sparsify.read),
    "gemma_scope": Layout(gemma_scope.fits, gemma_scope.read),
    "llama_scope": Layout(llama_scope.fits, llama_scope.read),
    "goodfire": Layout(named.fits_goodfire, named.read_goodfire),
    "qwen_scope": Layout(named.fits_qwen_scope, named.read_qwen_scope),
    "circuit_tracer": Layout(circuit.fits, circuit.read),
    "dictionary_learning": Layout(dictionary_learning.fits, dictionary_learning.read),
}
"""`{name: layout}`, the surer signs first."""


def load_sae(
    name: str | Path,
    inside: str = "",
    *,
    layout: str | None = None,
    site: str | None = None,
    layer: int | None = None,
    out_site: str | None = None,
    scale: float | None = None,
    k: int | None = None,
    model: Decoder | None = None,
) -> Sae:
    """A dictionary in the canonical form; its `origin` says what it was read as, `folds` how.

    Args:
      name: a file, a folder, or a hub id such as `google/gemma-scope-2b-pt-res`.
      inside: the folder or file in it, such as `layer_20/width_16k/average_l0_71`. Of a hub's
        repository nothing else is fetched.
      layout: one of `LAYOUTS`, if what the files hold should not decide.
      site: what it reads, if the files do not say or say it wrongly.
      layer: of which layer.
      out_site: what it reconstructs, if it is another site.
      scale: what activations were multiplied by in training, where the files do not say.
      k: how many latents are on, where the files do not say.
      model: the model it is for: widths are compared, and the weight of a norm is folded where
        the dictionary was trained on the norm's output before it.

    Raises:
      SelfxError: there is no dictionary, or several; a layout that is not known; a file that is
        broken or holds more than data; numbers that are not finite; shapes that do not fit.
    """
    if layout is not None and layout not in LAYOUTS:
        raise SelfxError(f"the layout {layout!r}", expected=f"one of {', '.join(LAYOUTS)}")
    file, full = find_weights(str(name), inside)
    bundle = bundle_of(file, full)
    chosen = layout or _detected(bundle)
    given = Given(site, layer, out_site, scale, k)
    return finish(_read(bundle, given, chosen), model)


def finish(sae: Sae, model: Decoder | None = None) -> Sae:
    """A dictionary as its layout has it, checked, with all that is left to fold folded.

    Raises:
      SelfxError: as `load_sae`.
    """
    _check(sae)
    origin = sae.origin
    if origin is not None and origin.bare:
        if model is None:
            raise SelfxError(
                f"{origin.path} reads the normed residual before the norm's weight",
                expected="the model, whose weight is folded into the encoder",
                hint="give it: model=lm.model",
            )
        sae = norm_weight(sae, model)
        sae = dataclasses.replace(sae, origin=dataclasses.replace(origin, bare=False))
    if model is not None:
        check_width(sae, model.config)
    return _on_device(unit_decoder(sae))


def _read(bundle: Bundle, given: Given, layout: str) -> Sae:
    try:
        return LAYOUTS[layout].read(bundle, given)
    except SelfxError:
        raise
    except (KeyError, ValueError, TypeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SelfxError(
            f"{bundle.name} cannot be read as {layout}: {what}",
            expected="settings and tensors that belong together",
            hint="download it again, or say with layout= what it is",
        ) from error


def _detected(bundle: Bundle) -> str:
    for name, layout in LAYOUTS.items():
        if layout.fits(bundle):
            return name
    shapes = [f"{key} {list(np.shape(v))}" for key, v in sorted(bundle.tensors.items())]
    raise SelfxError(
        f"{bundle.name} is in no layout that is known",
        expected=f"one of {', '.join(LAYOUTS)}, with the config files that belong to it",
        hint=f"it holds {', '.join(shapes[:8]) or 'no tensor'}",
    )


def _check(sae: Sae) -> None:
    """Raises SelfxError where shapes do not fit each other, or numbers are not finite."""
    where = sae.origin.path if sae.origin is not None else "the SAE"
    find(sae.site)
    find(sae.target)
    if np.ndim(sae.w_enc) != 2 or np.ndim(sae.w_dec) != 2:
        raise SelfxError(
            f"{where} has an encoder {list(np.shape(sae.w_enc))} and a decoder "
            f"{list(np.shape(sae.w_dec))}",
            expected="two matrices",
        )
    d, n = np.shape(sae.w_enc)
    out = d if sae.out_site is None else np.shape(sae.w_dec)[1]
    wanted = {"w_dec": (n, out), "b_enc": (n,), "b_dec": (out,), "threshold": (n,), "order": (n,)}
    wanted |= {"skip": (d, out)}
    for name, shape in wanted.items():
        part = getattr(sae, name)
        if part is not None and np.shape(part) != shape:
            raise SelfxError(
                f"{where} has {name} {list(np.shape(part))} beside an encoder {[d, n]}",
                expected=f"{list(shape)}",
                hint="the file is of another dictionary, or was cut" if name == "w_dec" else "",
            )
    if not 0 < sae.k <= n and sae.rule in ("topk", "groupmax"):
        raise SelfxError(f"{where} has {sae.k} of {n} latents on", expected=f"from 1 to {n}")
    if sae.rule == "groupmax" and n % sae.k:
        raise SelfxError(f"{where} has {n} latents in {sae.k} groups", expected="equal groups")
    for name, part in _parts(sae).items():
        if not np.isfinite(part).all():
            raise SelfxError(
                f"{where} has numbers in {name} that are not finite",
                expected="weights that were trained to an end",
                hint="download it again",
            )


def _parts(sae: Sae) -> dict[str, Any]:
    names = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "skip", "order")
    parts = {name: getattr(sae, name) for name in names}
    if sae.gate is not None:
        parts |= {"the gate": sae.gate.w, "the gate's bias": sae.gate.b}
    return {name: part for name, part in parts.items() if part is not None}


def _on_device(sae: Sae) -> Sae:
    """With every part a float32 array of jax."""

    def placed(part: Any) -> Any:
        return None if part is None else jnp.asarray(np.ascontiguousarray(part), jnp.float32)

    gate = None if sae.gate is None else Gate(placed(sae.gate.w), placed(sae.gate.b))
    names = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "skip", "order")
    return dataclasses.replace(sae, gate=gate, **{n: placed(getattr(sae, n)) for n in names})
