"""One pass over a corpus, batch by batch on device; it can be stopped and gone on with.

A state depends on nothing but the features, the windows seen and the seed: a pass that was stopped
and taken up again ends in the same arrays to the bit.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from selfx.errors import SelfxError
from selfx.features.exemplars.corpus import Corpus
from selfx.features.exemplars.directions import Reader, read
from selfx.features.exemplars.picks import Picks, empty, merge
from selfx.files import atomic
from selfx.models.decoder import Decoder

KINDS = ("top", "sample", "random")
"""Highest peaks, a document once; any windows where the feature is on; any windows at all."""


@struct.dataclass
class State:
    """What a pass has found so far.

    Attributes:
      picks: `{kind: Picks}`.
      tokens: int32 `[]`, how many were read.
      active: int32 `[n]`, at how many of them each feature was on.
      fired: int32 `[n]`, in how many windows.
      total: float32 `[n]`, its activations summed.
      squares: float32 `[n]`, their squares summed.
    """

    picks: dict[str, Picks]
    tokens: jax.Array
    active: jax.Array
    fired: jax.Array
    total: jax.Array
    squares: jax.Array


@struct.dataclass
class Batch:
    """Some windows of a corpus.

    Attributes:
      tokens: int32 `[b, t]`.
      mask: bool `[b, t]`, True at real tokens.
      counted: bool `[b, t]`, True where an activation counts.
      window: int32 `[b]`; -1 in rows that only fill the batch.
      document: int32 `[b]`.
    """

    tokens: jax.Array
    mask: jax.Array
    counted: jax.Array
    window: jax.Array
    document: jax.Array


def start(features: int, sizes: dict[str, int], length: int) -> State:
    """The state before the first window."""
    picks = {kind: empty(features, sizes[kind], length) for kind in KINDS}
    active, fired = (jnp.zeros(features, jnp.int32) for _ in range(2))
    total, squares = (jnp.zeros(features) for _ in range(2))
    return State(picks, jnp.zeros((), jnp.int32), active, fired, total, squares)


def batch_of(corpus: Corpus, first: int, size: int) -> Batch:
    """`size` windows from `first` on; past the last one, rows that count for nothing."""
    rows = np.arange(first, first + size)
    inside = rows < len(corpus)
    rows = np.minimum(rows, len(corpus) - 1)
    place = np.arange(corpus.tokens.shape[1])
    mask = place < corpus.lengths[rows, None]
    counted = mask & (place >= corpus.skip) & inside[:, None]
    window = np.where(inside, rows, -1).astype(np.int32)
    arrays = (corpus.tokens[rows], mask, counted, window, corpus.document[rows])
    return Batch(*map(jnp.asarray, arrays))


@functools.partial(jax.jit, donate_argnums=0)
def step(state: State, model: Decoder, features: Reader, batch: Batch, seed: jax.Array) -> State:
    """The state after a batch."""
    raw = read(model, features, batch.tokens, batch.mask)
    f = jnp.where(batch.counted[:, :, None], raw, 0.0)
    sums, peaks = _summed(f)
    peaks = peaks.T
    on = peaks > 0
    real = batch.window[None] >= 0
    draws = _draws(seed, batch.window, features.count)
    keys = {
        "top": jnp.where(on, peaks, -jnp.inf),
        "sample": jnp.where(on, draws[0], -jnp.inf),
        "random": jnp.where(real, draws[1], -jnp.inf),
    }
    picks = {
        kind: merge(state.picks[kind], key, batch.window, batch.document, f, once=kind == "top")
        for kind, key in keys.items()
    }
    return State(
        picks,
        state.tokens + batch.counted.sum(dtype=jnp.int32),
        state.active + sums.active,
        state.fired + on.sum(axis=1, dtype=jnp.int32),
        state.total + sums.total,
        state.squares + sums.squares,
    )


@struct.dataclass
class _Sums:
    """As in `State`."""

    active: jax.Array
    total: jax.Array
    squares: jax.Array


def _summed(f: jax.Array) -> tuple[_Sums, jax.Array]:
    """The sums over `f` `[b, t, n]`, and `[b, n]` its highest in every window.

    Window by window, each small enough for the processor's own memory: sum by sum takes ten times
    as long.
    """

    def window(sums: _Sums, f: jax.Array) -> tuple[_Sums, jax.Array]:
        active = sums.active + (f > 0).sum(axis=0, dtype=jnp.int32)
        total, squares = sums.total + f.sum(axis=0), sums.squares + (f * f).sum(axis=0)
        return _Sums(active, total, squares), f.max(axis=0)

    zero = jnp.zeros(f.shape[-1])
    return jax.lax.scan(window, _Sums(zero.astype(jnp.int32), zero, zero), f)


def _draws(seed: jax.Array, window: jax.Array, features: int) -> jax.Array:
    """float32 `[2, n, b]`: random numbers that depend on seed, window and feature alone."""
    key = jax.random.key(seed)

    def one(index: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, index), (2, features))

    return jax.vmap(one, out_axes=2)(window)


def check_finite(state: State) -> None:
    """Raises SelfxError if an activation was no finite number."""
    wrong = np.flatnonzero(~np.isfinite(np.asarray(state.total)))
    if len(wrong):
        raise SelfxError(
            f"activations that are not finite, of {len(wrong)} features, feature {wrong[0]} first",
            expected="finite weights and directions",
            hint="look for NaN in the features' file, and run selfx doctor on the model",
        )


def fingerprint(features: Reader) -> str:
    """A hash of the features: their arrays, and where they read."""
    total = hashlib.sha256(f"{features.site} {features.layer}".encode())
    for leaf in jax.tree.leaves(features):
        array = np.ascontiguousarray(leaf)
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def save_state(path: Path, state: State, done: int, settings: str) -> None:
    """Writes the state after `done` windows, or leaves the file as it was."""
    arrays = {name: np.asarray(leaf) for name, leaf in _named(state).items()}
    with atomic(path) as temporary:
        save_file(arrays, temporary, {"done": str(done), "settings": settings})


def load_state(path: Path, like: State, settings: str) -> tuple[State, int]:
    """The state in a file, and how many windows it has seen; `like` and 0 if there is no file.

    Raises:
      SelfxError: the file is of a pass with other settings, or cannot be read.
    """
    if not path.is_file():
        return like, 0
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("settings") != settings:
                raise SelfxError(
                    f"{path} is of a pass with other features, texts or settings",
                    hint="use another --out, or delete that folder to start over",
                )
            leaves = [jnp.asarray(file.get_tensor(name)) for name in _named(like)]
            return jax.tree.unflatten(jax.tree.structure(like), leaves), int(about["done"])
    except (SafetensorError, OSError, KeyError) as error:
        raise SelfxError(
            f"{path} cannot be read: {error}", hint="delete it to start the pass over"
        ) from error


def _named(state: State) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
