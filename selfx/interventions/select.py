"""Which layers and which positions are meant, as lists of numbers or as masks.

The same words everywhere: a number alone holds for all rows, and a matrix `[b, n]` lists up to `n`
for every row, -1 for none. A list is several layers, but one position for each row, as in
`selfx.patch`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.sites import Site
from selfx.models.tap import Array


def layer_lists(layers: Any) -> Array:
    """int32 `[b|1, m]` from a layer, several, or up to `m` for each row."""
    layers = _whole(list(layers) if isinstance(layers, range | set) else layers)
    return layers if layers.ndim == 2 else layers.reshape(1, -1)


def position_lists(positions: Any) -> Array:
    """int32 `[b|1, n]` from a position, one for each row, or up to `n` for each row."""
    positions = _whole(positions)
    return positions if positions.ndim == 2 else positions.reshape(-1, 1)


def listed(numbers: Array, count: int, what: str) -> jax.Array:
    """bool `[b|1, count]`: which of `0 .. count - 1` stand in `numbers` `[b|1, n]`.

    Raises:
      SelfxError: a number from `count` on, or below -1.
    """
    check_numbers(numbers, count, what)
    return (numbers[:, :, None] == jnp.arange(count)).any(axis=1)


def check_numbers(numbers: Array, count: int, what: str) -> None:
    """Raises SelfxError for a number from `count` on, or below -1, if they are known now."""
    if isinstance(numbers, jax.core.Tracer):
        return
    wrong = [n for n in np.unique(np.asarray(numbers)).tolist() if not -1 <= n < count]
    if wrong:
        raise SelfxError(
            f"{what} {wrong[0]}",
            expected=f"a {what} from 0 to {count - 1}, or -1 for none",
            hint="count from 0; for the last give its index" if wrong[0] < 0 else "",
        )


def check_heads(heads: np.ndarray, config: Config, site: Site) -> None:
    """Raises SelfxError for a query head that the model does not have."""
    wrong = [head for head in np.unique(heads).tolist() if not 0 <= head < config.n_heads]
    if wrong:
        raise SelfxError(
            f"head {wrong[0]} at {site.name!r}", expected=f"a head from 0 to {config.n_heads - 1}"
        )


def check_rows(numbers: Array, site: Site, batch: int) -> None:
    """Raises SelfxError for an array of neither 1 row nor as many as the run has."""
    if numbers.shape[0] not in (1, batch):
        raise SelfxError(
            f"an edit of {numbers.shape[0]} rows at {site.name!r}", expected=f"1 row or {batch}"
        )


def _whole(numbers: Any) -> Array:
    """int32; NumPy stays NumPy, so that what it holds can be checked under jit too."""
    if isinstance(numbers, jax.Array):
        return numbers.astype(jnp.int32)
    return np.asarray(numbers, np.int32)
