"""What the explainer is fed in place of its vector, to see what the vector is worth.

Each control takes the vectors `[n, m, d]` of all examples, `m` for each, and returns as many of the
same shape and dtype. All share one signature, `(vectors, *, seed, groups)`, and are functions of
the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError

Vectors = NDArray[Any]


class Control(Protocol):
    """A function from vectors to the vectors fed in their place."""

    def __call__(
        self, vectors: Vectors, *, seed: int = 0, groups: Sequence[str] | None = None
    ) -> Vectors:
        """Returns an array of the same shape and dtype."""
        ...


def none(vectors: Vectors, *, seed: int = 0, groups: Sequence[str] | None = None) -> Vectors:
    """Returns the vectors themselves: the explainer as it was trained."""
    return vectors


def zero(vectors: Vectors, *, seed: int = 0, groups: Sequence[str] | None = None) -> Vectors:
    """Returns zeros: what can be answered from the text alone."""
    return np.zeros_like(vectors)


def shuffled(vectors: Vectors, *, seed: int = 0, groups: Sequence[str] | None = None) -> Vectors:
    """Returns every vector in another example's place: real activations, of the wrong example.

    Nobody keeps its own vector. Nobody gets one from its own group either, unless a group holds
    more than half of the examples; then as few as possible do.
    """
    n = len(vectors)
    if n == 1:
        raise SelfxError(
            "one vector to shuffle",
            expected="at least two examples, so that nobody keeps its own",
            hint="the control 'zero', or more examples",
        )
    return vectors[_donors(n, groups, np.random.default_rng(seed))]


def rotated(vectors: Vectors, *, seed: int = 0, groups: Sequence[str] | None = None) -> Vectors:
    """Returns the vectors under one random rotation: norms and angles stay, directions go."""
    rotation = random_orthogonal(vectors.shape[-1], seed=seed)
    return (vectors @ rotation).astype(vectors.dtype)


CONTROLS: dict[str, Control] = {
    "none": none,
    "zero": zero,
    "shuffled": shuffled,
    "rotated": rotated,
}


def get_control(name: str) -> Control:
    """Returns the control of that name."""
    if name not in CONTROLS:
        raise SelfxError(f"control {name!r}", expected=f"one of {', '.join(CONTROLS)}")
    return CONTROLS[name]


def random_orthogonal(d: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Returns an orthogonal matrix `[d, d]`, uniform (Haar) over all of them."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    # QR fixes the signs of q by its own convention; only with r's signs put back is q uniform.
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def _donors(n: int, groups: Sequence[str] | None, rng: np.random.Generator) -> NDArray[np.intp]:
    """Returns for each example the index of the one whose vector it gets.

    Standing in a ring, each group together, everybody takes from the one as many places ahead as
    the largest group has members: that is past the end of any group.
    """
    order = rng.permutation(n)
    step = 1
    if groups is not None and n:
        label, size = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)[1:]
        order = order[np.argsort(rng.permutation(len(size))[label][order], kind="stable")]
        step = int(size.max()) if len(size) > 1 else 1
    donors = np.empty(n, np.intp)
    donors[order] = np.roll(order, -step)
    return donors
