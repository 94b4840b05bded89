"""The residuals that leave every layer at some places of some texts, each text run once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from selfx.interventions.batching import chunks, pad, repeat_last, rows_for
from selfx.models.decoder import Decoder, forward
from selfx.models.tap import At

POSITIONS_A_ROW = 4
"""How many positions of a text one row of a run returns."""

Spot = tuple[tuple[int, ...], int]
"""A text in tokens, and a position in it."""


class Sources:
    """Residuals `[l, d]` of every place asked for; calling it gathers those of some."""

    def __init__(self, model: Decoder, spots: Sequence[Spot], batch_size: int):
        """Runs each text up to the last place wanted in it, `batch_size` texts at once."""
        config, rows = model.config, _rows(spots)
        self.place: dict[Spot, int] = {}
        for ids, positions in rows:
            for position in positions:
                self.place[ids, position] = len(self.place)
        shape = (len(self.place), config.n_layers, config.d_model)
        self.states = np.zeros(shape, model.embed[...].dtype)
        for part in chunks(rows, batch_size):
            tokens, mask = pad(
                [r[0][: max(r[1]) + 1] for r in part], rows_for(len(part), batch_size)
            )
            full = [repeat_last(positions, POSITIONS_A_ROW) for _, positions in part]
            seen = _read(model, tokens, mask, np.array(repeat_last(full, len(tokens)), np.int32))
            for row, (ids, positions) in enumerate(part):
                for slot, position in enumerate(positions):
                    self.states[self.place[ids, position]] = np.asarray(seen[:, row, slot])

    def __call__(self, spots: Sequence[Spot]) -> np.ndarray:
        """`[b, l, d]`, a row for each place."""
        return self.states[[self.place[spot] for spot in spots]]


def _rows(spots: Sequence[Spot]) -> list[tuple[tuple[int, ...], list[int]]]:
    """Each distinct text with the positions to read, a few to a row, the shortest runs first."""
    by_text: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for ids, position in spots:
        by_text[ids].add(position)
    rows = [
        (ids, list(part))
        for ids, positions in by_text.items()
        for part in chunks(sorted(positions), POSITIONS_A_ROW)
    ]
    return sorted(rows, key=lambda row: (max(row[1]), row))


@jax.jit
def _read(model: Decoder, tokens: jax.Array, mask: jax.Array, positions: jax.Array) -> jax.Array:
    """The residuals `[l, b, p, d]` leaving every layer at `positions` `[b, p]`."""
    first = jnp.zeros((tokens.shape[0], 1), jnp.int32)
    capture = {"resid_post": At(positions=positions)}
    out = forward(model, tokens, mask=mask, capture=capture, logits_at=first)
    return out.captures["resid_post"]
