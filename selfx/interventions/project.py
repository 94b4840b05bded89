"""Edits confined to a subspace: of an activation they change only its part in a few directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.build import patch
from selfx.interventions.edits import Edits
from selfx.models.config import Config
from selfx.models.sites import Site
from selfx.models.tap import Address, Edit

TINY = 1e-5
"""A direction counts as another's repetition where less than this share of it is new."""


@struct.dataclass
class Within:
    """`x <- x + P (edit(x) - x)`, where `P` projects the last axis on a subspace.

    Attributes:
      edit: what would be done to all of `x`; where it does nothing, nothing is done.
      basis: float32 `[..., n, k]`, orthonormal columns in an axis of `k` directions; leading axes
        are those between `t` and the last of the site, such as a basis for each head.
    """

    edit: Edit
    basis: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The changed `x` `[b, t, *feature]`."""
        change = self.edit(x, at).astype(jnp.float32) - x.astype(jnp.float32)
        high = jax.lax.Precision.HIGHEST
        along = jnp.einsum("...n,...nk->...k", change, self.basis, precision=high)
        inside = jnp.einsum("...k,...nk->...n", along, self.basis, precision=high)
        return x + inside.astype(x.dtype)

    def check(self, site: Site, config: Config, batch: int, length: int) -> None:
        """Raises SelfxError where the basis, or the edit within it, does not fit the site."""
        shape = self.basis.shape[:-1]
        if not site.broadcasts(shape, config) or shape[-1] == 1 or "s" in site.axes:
            raise SelfxError(
                f"directions of shape {list(shape)} at {site.name!r}",
                expected=f"{site.describe_shape(config)[1:-1].split(', ')[-1]} numbers each",
                hint="subspaces are of an axis with a fixed width, so not of source tokens"
                if "s" in site.axes
                else "",
            )
        inner = getattr(self.edit, "check", None)
        if inner is not None:
            inner(site, config, batch, length)


def within(edits: Mapping[str, tuple[Edit, ...]], basis: Any) -> Edits:
    """The same edits, confined to a subspace: whatever is orthogonal to it stays as it was.

    Args:
      edits: any, such as `selfx.patch` or `selfx.replay` return, or your own.
      basis: directions `[n]`, `[k, n]` or, a set for each head, `[h, k, n]`, of any length and
        angle, `n` the last axis of the site; gradients flow to it.

    Raises:
      SelfxError: a basis without directions.
    """
    columns = orthonormal(basis)
    return Edits(
        {site: tuple(Within(edit, columns) for edit in several) for site, several in edits.items()}
    )


def project_out(
    site: str,
    basis: Any,
    *,
    mean: Any = 0.0,
    layers: Any = None,
    positions: Any = None,
    part: Any = None,
) -> Edits:
    """An edit that removes a direction, or a subspace, from a site.

    Directional ablation (Arditi et al. 2024, arXiv 2406.11717): `x <- x - B^T B (x - mean)`, the
    rows of `B` an orthonormal basis of what `basis` spans.

    Args:
      site: a name in `selfx.models.sites`.
      basis: as in `within`.
      mean: what is left in the subspace, as `value` in `selfx.patch`; 0 leaves nothing.
      layers: where to act, as in `selfx.patch`.
      positions: where to act.
      part: where to act, such as `[h, 1]` for some heads.

    Raises:
      SelfxError: as in `selfx.patch`; a basis without directions.
    """
    where = {"layers": layers, "positions": positions, "part": part}
    return within(patch(site, mean, **where), basis)


def interchange(
    site: str,
    basis: Any,
    value: Any,
    *,
    layers: Any = None,
    positions: Any = None,
    part: Any = None,
) -> Edits:
    """An edit that takes what a site has in a subspace from another run.

    The distributed interchange intervention of Geiger et al. 2023 (arXiv 2303.02536):
    `x <- x + B^T B (value - x)`. To find the subspace (DAS), follow the gradient to `basis`.

    Args:
      site: a name in `selfx.models.sites`.
      basis: as in `within`.
      value: the other run's activation, `[*feature]`, `[b, *feature]` or `[b, l, *feature]`. For
        all positions at once, `within(selfx.replay(...), basis)`.
      layers: where to act, as in `selfx.patch`.
      positions: where to act.
      part: where to act.

    Raises:
      SelfxError: as in `selfx.patch`; a basis without directions.
    """
    where = {"layers": layers, "positions": positions, "part": part}
    return within(patch(site, value, **where), basis)


def orthonormal(basis: Any) -> jax.Array:
    """float32 `[..., n, k]`: columns that span what the rows `[n]` or `[..., k, n]` span.

    A row that repeats others gives a column of zeros.

    Raises:
      SelfxError: no rows, or more than there are dimensions.
    """
    basis = jnp.asarray(basis, jnp.float32)
    rows = jnp.atleast_2d(basis)
    count, width = rows.shape[-2:]
    if not 0 < count <= width or not basis.ndim:
        raise SelfxError(
            f"a basis of shape {list(basis.shape)}",
            expected="[n] or [k, n]: at least one direction, at most as many as dimensions",
            hint="several vectors of one subspace are its rows",
        )
    columns, upper = jnp.linalg.qr(rows.swapaxes(-1, -2))
    new = jnp.abs(jnp.diagonal(upper, axis1=-2, axis2=-1))
    return columns * (new > TINY * jnp.linalg.norm(rows, axis=-1))[..., None, :]
