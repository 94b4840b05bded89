"""Captures under the names of their axes, for Penzai's named arrays and Treescope's display."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from penzai import pz

from selfx.errors import SelfxError
from selfx.models.sites import find

AXES = {
    "b": "batch",
    "t": "target position",
    "s": "source position",
    "d": "residual width",
    "h": "query head",
    "k": "key/value head",
    "e": "head width",
    "f": "MLP width",
    "l": "layer",
    "v": "vocabulary",
}
"""The letters of the glossary in `selfx.models.sites`, spelled."""


def captures_to_named(captures: Mapping[str, jax.Array]) -> dict[str, pz.nx.NamedArray]:
    """`{site: named array}` over the same buffers, every axis under its name in `AXES`.

    Args:
      captures: what `forward` returned, `{site: [l, b, t, ...]}`; sites outside the layers lack
        the `l`.

    Raises:
      SelfxError: an unknown site, or an array with other axes than its site has.
    """
    return {site: pz.nx.wrap(x).tag(*_names(site, x)) for site, x in captures.items()}


def _names(site: str, x: jax.Array) -> list[str]:
    found = find(site)
    letters = f"{'l' * found.layered}bt{found.axes}"
    if x.ndim != len(letters):
        raise SelfxError(
            f"an array of shape {list(x.shape)} at {site!r}",
            expected=f"axes [{', '.join(letters)}]",
            hint="take the captures as selfx.forward returns them",
        )
    return [AXES[letter] for letter in letters]
