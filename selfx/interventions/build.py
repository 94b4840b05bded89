"""What users write: patch, ablate, steer and inject, from plain numbers to an edit.

Every argument may differ from row to row: give it a leading batch axis as said below. What only the
model can tell (is there such a layer, does the width fit) is checked when the edit meets it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.interventions.edits import EVERY, Affine, Edits
from selfx.models.sites import Site, find
from selfx.models.tap import check_outside_layers


def patch(
    site: str, value: Any, *, layers: Any = None, positions: Any = None, part: Any = None
) -> Edits:
    """An edit that replaces a site's activation by `value`.

    Args:
      site: a name in `selfx.models.sites`.
      value: `[*feature]` for all rows, `[b, *feature]` a row each, or `[b, l, *feature]` a row and
        layer each (another run's captures, with the layer axis second). 0 zeroes the activation.
      layers: a layer, several, or int `[b, m]` to choose up to `m` in every row, -1 for none; None
        is every layer.
      positions: a position, or int `[b]` to choose one in every row; None is every position.
      part: bool `[*feature]` or `[b, *feature]`, axes of 1 broadcasting: which heads or neurons.

    Raises:
      SelfxError: an unknown site, a negative position, a layer where there are none.
    """
    return _affine(site, value, 0.0, layers, positions, part)


def ablate(
    site: str,
    *,
    kind: str = "zero",
    value: Any = None,
    layers: Any = None,
    positions: Any = None,
    part: Any = None,
) -> Edits:
    """An edit that removes what a site carries; other arguments as in `patch`.

    Args:
      site: a name in `selfx.models.sites`.
      kind: `zero`; `mean`, where `value` is an average activation; `resample`, where `value` is
        the activation of another text.
      value: what to put there; none for `zero`.
      layers: where to act.
      positions: where to act.
      part: where to act.

    Raises:
      SelfxError: as in `patch`; an unknown kind; a value given to `zero` or missing elsewhere.
    """
    if kind not in ("zero", "mean", "resample"):
        raise SelfxError(f"ablation {kind!r}", expected="'zero', 'mean' or 'resample'")
    if (kind == "zero") != (value is None):
        wanted = "no value" if kind == "zero" else "the activation to put in its place as value="
        raise SelfxError(f"{kind} ablation at {site!r}", expected=wanted)
    return _affine(site, 0.0 if value is None else value, 0.0, layers, positions, part)


def steer(
    site: str,
    vector: Any,
    *,
    strength: Any = 1.0,
    layers: Any = None,
    positions: Any = None,
    part: Any = None,
) -> Edits:
    """An edit that adds `strength * vector`; `strength` is a number or `[b]`, the rest as `patch`.

    Raises:
      SelfxError: as in `patch`.
    """
    vector, strength = jnp.asarray(vector, jnp.float32), jnp.asarray(strength, jnp.float32)
    rank = len(find(site).axes)
    if strength.ndim and vector.ndim in (0, rank):
        vector = vector.reshape(1, *(vector.shape or (1,) * rank))
    scaled = vector * strength.reshape(*strength.shape, *(1,) * (vector.ndim - strength.ndim))
    return _affine(site, scaled, 1.0, layers, positions, part)


def inject(vectors: Any, *, positions: Any, layer: int | None = None) -> Edits:
    """An edit that writes `vectors` where texts have a placeholder, for an explainer to read.

    Args:
      vectors: `[b, d]`, one for each row.
      positions: int `[b]`, the placeholder's position in each row; -1 for a row without one.
      layer: None replaces the embedding, as in arXiv 2511.08579; else what enters that layer.
    """
    site = find("embeddings" if layer is None else "resid_pre")
    edit = Affine(
        layers=_layers(layer, site),
        positions=jnp.maximum(jnp.asarray(positions, jnp.int32).reshape(-1, 1), -1),
        part=_part(None, site),
        keep=jnp.zeros((1, 1), jnp.float32),
        value=_value(vectors, site),
    )
    return Edits({site.name: (edit,)})


def _affine(name: str, value: Any, keep: float, layers: Any, positions: Any, part: Any) -> Edits:
    site = find(name)
    edit = Affine(
        layers=_layers(layers, site),
        positions=_positions(positions),
        part=_part(part, site),
        keep=jnp.full((1, 1), keep, jnp.float32),
        value=_value(value, site),
    )
    return Edits({site.name: (edit,)})


def _layers(layers: Any, site: Site) -> jax.Array:
    """int32 `[b|1, 1, m]`."""
    if layers is None:
        return jnp.full((1, 1, 1), EVERY, jnp.int32)
    check_outside_layers(site)
    if not isinstance(layers, jax.core.Tracer):
        layers = np.asarray(list(layers) if isinstance(layers, range | set) else layers)
        lowest = -1 if layers.ndim == 2 else 0
        if layers.size and layers.min() < lowest:
            raise SelfxError(f"layer {layers.min()} at {site.name!r}", expected="layers from 0")
    return jnp.atleast_2d(jnp.asarray(layers, jnp.int32))[:, None, :]


def _positions(positions: Any) -> jax.Array:
    """int32 `[b|1, 1]`; a negative number would be padding or a sentinel, so it raises."""
    if positions is None:
        return jnp.full((1, 1), EVERY, jnp.int32)
    if not isinstance(positions, jax.core.Tracer) and np.any(np.asarray(positions) < 0):
        raise SelfxError(
            f"position {int(np.min(np.asarray(positions)))}",
            expected="positions counted from 0 among a row's real tokens",
            hint="for the last token give its index, the number of real tokens - 1",
        )
    return jnp.asarray(positions, jnp.int32).reshape(-1, 1)


def _part(part: Any, site: Site) -> jax.Array:
    """bool `[b|1, 1, *feature]` with sizes of 1 where it broadcasts."""
    rank = len(site.axes)
    part = jnp.asarray(True if part is None else part, bool)
    if part.ndim == 0:
        return part.reshape(1, 1, *(1,) * rank)
    if part.ndim == rank:
        return part[None, None]
    if part.ndim == rank + 1:
        return part[:, None]
    raise SelfxError(
        f"a part of shape {list(part.shape)} at {site.name!r}",
        expected=f"axes [{', '.join(site.axes)}], with a leading b if it differs from row to row",
        hint="an axis of 1 stands for all of it, such as [h, 1] for whole heads",
    )


def _value(value: Any, site: Site) -> jax.Array:
    """`[b|1, 1, l|1, *feature]` in the value's own float type, or float32."""
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.float32)
    rank = len(site.axes)
    if value.ndim == 0:
        return value.reshape(1, 1, 1, *(1,) * rank)
    if value.ndim == rank:
        return value[None, None, None]
    if value.ndim == rank + 1:
        return value[:, None, None]
    if value.ndim == rank + 2:
        return value[:, None]
    raise SelfxError(
        f"a value of shape {list(value.shape)} at {site.name!r}",
        expected=f"axes [{', '.join(site.axes)}], with a leading b, or b and l, if it differs",
    )
