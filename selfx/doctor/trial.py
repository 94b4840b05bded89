"""A model made to run as the checks want it, each kind of run compiled once."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from selfx.models import cache as caches
from selfx.models.decoder import Decoder, Output, forward
from selfx.models.sites import sites_of

PADS = 7
AFTER_CACHE = 4
"""How many tokens a cached run feeds one at a time, at the end."""


class Trial:
    """A model, some texts of one length, and what the model does with them.

    Attributes:
      model: the decoder.
      tokens: int32 `[b, t]`, no padding.
      sites: the sites that this model has.
    """

    def __init__(self, model: Decoder, tokens: np.ndarray):
        self.model, self.tokens = model, np.asarray(tokens, np.int32)
        self.sites = tuple(sites_of(model.config))
        # A function of its own, so that a program compiled earlier never answers for this model.
        self._run = jax.jit(lambda *args, **more: forward(*args, **more), static_argnames="capture")

    def run(self, tokens: np.ndarray, **more: Any) -> Output:
        """A forward pass, its products in full precision."""
        with jax.default_matmul_precision("highest"):
            return self._run(self.model, tokens, **more)

    @functools.cached_property
    def plain(self) -> Output:
        """The texts as they are, every site captured."""
        return self.run(self.tokens, capture=self.sites)

    @functools.cached_property
    def captures(self) -> dict[str, np.ndarray]:
        """What was captured in it, on the host."""
        return {site: np.asarray(x) for site, x in self.plain.captures.items()}

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool `[5, t + 7]`: 7, 6, 1 and 0 pads after the text, the rest before; and 7 inside."""
        length = self.tokens.shape[1]
        width = length + PADS
        sides = [(np.arange(width) >= n) & (np.arange(width) < n + length) for n in (0, 1, 6, 7)]
        inside = np.ones(width, bool)
        inside[np.linspace(1, width - 2, PADS).astype(int)] = False
        return np.stack([*sides, inside])

    @functools.cached_property
    def padded_tokens(self) -> np.ndarray:
        """int32 `[5, t + 7]`: texts in turn, pads of every kind between."""
        vocabulary = self.model.config.vocab_size
        fill = np.random.default_rng(0).integers(0, vocabulary, self.masks.shape, np.int32)
        rows = np.arange(len(self.masks)) % len(self.tokens)
        fill[self.masks] = self.tokens[rows].reshape(-1)
        return fill

    @functools.cached_property
    def padded(self) -> Output:
        """The texts padded in every way."""
        return self.run(self.padded_tokens, mask=self.masks, capture=("resid_post",))

    def cached(self) -> tuple[np.ndarray, np.ndarray]:
        """The padded texts, first part at once and the last tokens one by one.

        Returns:
          Logits `[5, t + 7, v]`, and the position `[5]` that the cache would give the next token.
        """
        rows, width = self.masks.shape
        first = width - AFTER_CACHE
        cache: caches.Cache | None = caches.empty(
            self.model.config, rows, width, self.model.embed[...].dtype
        )
        seen = []
        for part in (slice(0, first), *(slice(i, i + 1) for i in range(first, width))):
            out = self.run(self.padded_tokens[:, part], mask=self.masks[:, part], cache=cache)
            cache = out.cache
            seen.append(np.asarray(out.logits))
        assert cache is not None
        return np.concatenate(seen, axis=1), np.asarray(cache.next_position)


@jax.jit
def layer_of(stacked: jax.Array, layer: jax.Array | int) -> jax.Array:
    """One layer's weight out of `[l, ...]`; one program serves all layers."""
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)
