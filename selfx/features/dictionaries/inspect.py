"""How a dictionary does on given text, beside what its files say, and what does not go together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from selfx.errors import SelfxError
from selfx.features.dictionaries.elsewhere import Fit, fits
from selfx.features.dictionaries.fold import check_width
from selfx.features.dictionaries.measured import Sums, measured
from selfx.features.dictionaries.sae import Sae
from selfx.models.decoder import Decoder, check_text
from selfx.models.tap import Array
from selfx.progress import Report, silent

L0_FACTOR = 2.0
"""How many times more, or fewer, latents than declared may be on."""

BAD = 0.01
BETTER = 0.75
"""Where more than `BAD` of the variance is left, another place or scale is named if it leaves less
than this share of that."""

LONG = 10.0
"""How many times as long as others first tokens may be before they are spoken of."""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a dictionary does on a text. First tokens are left out, unless asked for.

    Attributes:
      layout: what it was read as.
      path: its files.
      site: what it reads.
      target: what it reconstructs.
      layer: of which layer.
      latents: how many it has.
      tokens: how many were counted.
      l0: the mean number of latents on.
      declared_l0: the same by its files; None if they do not say.
      fvu: the share of the variance that it leaves unexplained: the squared error's sum over that
        of deviations from the mean.
      mse: the squared error, a mean over tokens and numbers.
      dead: the share of latents that were never on in these tokens.
      loss: the model's, nats a token.
      loss_spliced: with the reconstruction in the activation's place.
      loss_zeroed: with zeros there.
      recovered: how much of what zeros cost the reconstruction gets back; 1 is all.
      first_length: how many times as long as the others the activations of first tokens are.
      first_l0: the mean number of latents on at first tokens.
      elsewhere: the best fit at another site, layer or scale, on a few tokens.
      own: the fit as it is, on the same.
      folds: what was folded into the weights.
      warnings: what does not go together.
    """

    layout: str
    path: str
    site: str
    target: str
    layer: int
    latents: int
    tokens: int
    l0: float
    declared_l0: float | None
    fvu: float
    mse: float
    dead: float
    loss: float
    loss_spliced: float
    loss_zeroed: float
    recovered: float
    first_length: float
    first_l0: float
    elsewhere: Fit
    own: Fit
    folds: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return dataclasses.asdict(self)

    def __rich__(self) -> RenderableType:
        return Group(_table(self), *(f"fold: {fold}" for fold in self.folds), *_lines(self))


def inspect_sae(
    sae: Sae,
    model: Decoder,
    tokens: Array,
    mask: Array | None = None,
    *,
    bos: int | None = None,
    first: int = 1,
    batch: int = 8,
    report: Report = silent,
) -> Inspection:
    """What a dictionary does on a text, and where that contradicts its files.

    Args:
      sae: the dictionary.
      model: the model that it is for.
      tokens: int `[b, t]`, texts as they begin.
      mask: bool `[b, t]`, True at real tokens.
      bos: the token that begins texts, if the model has one.
      first: the first position that counts. Activations at 0 are often hundreds of times as long,
        and were left out in training; one such token decides every sum.
      batch: how many texts at once.
      report: is told how far it is.

    Raises:
      SelfxError: a dictionary of another width or layer; no text.
    """
    tokens, mask = _text(tokens, mask, first)
    check_width(sae, model.config)
    bare = dataclasses.replace(sae, origin=None, folds=())  # words that would compile it anew
    sums: dict[str, np.ndarray] = {}
    for at in range(0, len(tokens), batch):
        part, real = (_filled(each[at : at + batch], batch) for each in (tokens, mask))
        sums = _added(sums, measured(model, bare, part, real, first))
        report(min(at + batch, len(tokens)), len(tokens), "")
    own, *others = fits(bare, model, tokens[:batch], mask[:batch], first)
    begins = None if bos is None else bool((_firsts(tokens, mask) == bos).mean() > 0.5)
    return _concluded(sae, sums, own, others[0] if others else own, begins, first)


def _text(tokens: Array, mask: Array | None, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask `[b, t]`, with something that can be predicted."""
    check_text(tokens, mask)
    tokens = np.asarray(tokens)
    mask = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask, bool)
    if not (mask.sum(axis=1) > first + 1).any():
        raise SelfxError(
            f"{len(tokens)} texts, none of more than {first + 1} tokens",
            expected=f"texts with something to predict after position {first}",
        )
    return tokens, mask


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows, those that are missing of zeros: one shape is compiled once."""
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])


def _added(sums: dict[str, np.ndarray], new: Sums) -> dict[str, np.ndarray]:
    """Sums in float64 on the host, by name."""
    parts = {name: np.asarray(value, np.float64) for name, value in vars(new).items()}
    return {name: sums.get(name, 0.0) + part for name, part in parts.items()}


def _firsts(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The first real token of every row that has one."""
    return tokens[np.arange(len(tokens)), mask.argmax(axis=1)][mask.any(axis=1)]


def _concluded(
    sae: Sae, sums: dict[str, np.ndarray], own: Fit, other: Fit, begins: bool | None, first: int
) -> Inspection:
    """All of it, warnings last, as they are drawn from the rest."""
    origin = sae.origin
    found = Inspection(
        layout="" if origin is None else origin.layout,
        path="" if origin is None else origin.path,
        site=sae.site,
        target=sae.target,
        layer=sae.layer,
        latents=sae.w_enc.shape[1],
        declared_l0=None if origin is None else origin.l0,
        elsewhere=other,
        own=own,
        folds=sae.folds,
        warnings=(),
        **_numbers(sums, sae.w_dec.shape[1]),
    )
    return dataclasses.replace(found, warnings=tuple(_warnings(found, sae, begins, first)))


def _numbers(sums: dict[str, np.ndarray], width: int) -> dict[str, Any]:
    """The sums as means and shares, by the names of `Inspection`."""
    count, starts = float(sums["tokens"]), max(float(sums["starts"]), 1.0)
    spread = float(sums["square"] - np.square(sums["deviation"]).sum() / count)
    loss, spliced, zeroed = (float(each) / float(sums["predicted"]) for each in sums["losses"])
    length = float(sums["length"]) / count
    return {
        "tokens": int(count),
        "l0": float(sums["on"]) / count,
        "fvu": float(sums["error"]) / spread if spread > 0 else float("nan"),
        "mse": float(sums["error"]) / count / width,
        "dead": float((sums["fired"] == 0).mean()),
        "loss": loss,
        "loss_spliced": spliced,
        "loss_zeroed": zeroed,
        "recovered": (zeroed - spliced) / (zeroed - loss) if zeroed != loss else float("nan"),
        "first_length": float(sums["start_length"]) / starts / length if length else float("nan"),
        "first_l0": float(sums["start_on"]) / starts,
    }


def _warnings(found: Inspection, sae: Sae, begins: bool | None, first: int) -> list[str]:
    """What does not go together, the likeliest cause first."""
    lines = []
    other, own = found.elsewhere, found.own
    if own.fvu > BAD and other.fvu < BETTER * own.fvu:
        if (other.site, other.layer) == (own.site, own.layer):
            what = f"activations times {other.scale:g}: its scale is not folded"
        else:
            what = f"{other.site!r} of layer {other.layer}: it is of another site"
        lines.append(f"it leaves {own.fvu:.3g} of the variance here, and {other.fvu:.3g} of {what}")
    if found.fvu > 1:
        lines.append(f"it leaves {found.fvu:.3g} of the variance, more than a constant would")
    declared = found.declared_l0
    if declared and not 1 / L0_FACTOR <= found.l0 / declared <= L0_FACTOR:
        lines.append(f"{found.l0:.3g} latents are on, and its files say {declared:.3g}")
    trained = None if sae.origin is None else sae.origin.bos
    if begins is not None and trained is not None and begins != trained:
        lines.append(
            "it was trained on texts that begin with the token for that, and these do not"
            if trained
            else "it was trained on texts without a token to begin them, and these have one"
        )
    if first == 0 and found.first_length > LONG:
        lines.append(
            f"first tokens, whose activations are {found.first_length:.0f} times as long as the "
            "others', count: they decide every sum"
        )
    return lines


def _table(found: Inspection) -> Table:
    place = f"{found.site} of layer {found.layer}"
    place += f" to {found.target}" if found.target != found.site else ""
    title = f"{found.path or 'a dictionary'}: {place}, {found.latents:,} latents"
    table = Table("", "on this text", "declared", title=title)
    said = "" if found.declared_l0 is None else f"{found.declared_l0:.4g}"
    rows = [
        ("read as", found.layout, ""),
        ("tokens", f"{found.tokens:,}", ""),
        ("latents on (L0)", f"{found.l0:.4g}", said),
        ("  at first tokens", f"{found.first_l0:.4g}", ""),
        ("variance left (FVU)", f"{found.fvu:.4g}", ""),
        ("squared error", f"{found.mse:.4g}", ""),
        ("never on in this text", f"{found.dead:.1%}", ""),
        ("loss, nats a token", f"{found.loss:.4f}", ""),
        ("  reconstruction put in", f"{found.loss_spliced:.4f}", ""),
        ("  zeros put in", f"{found.loss_zeroed:.4f}", ""),
        ("loss recovered", f"{found.recovered:.1%}", ""),
    ]
    for row in rows:
        if row[1]:
            table.add_row(*row)
    return table


def _lines(found: Inspection) -> list[str]:
    return [f"WARNING: {line}" for line in found.warnings]
