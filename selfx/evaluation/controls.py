"""What the explainer is asked in place of its own question, to see what each input is worth.

A control changes examples, all at once: their vectors (`CONTROLS`), or what their questions tell
(`WITHHELD`). Those of vectors take `[n, m, d]`, `m` for each example, and return as many of the
same shape and dtype. All share one signature, `(vectors, *, seed, groups)`, and are functions of
the seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from selfx.errors import SelfxError
from selfx.tasks.withheld import withheld

if TYPE_CHECKING:
    from selfx.tasks.example import Example

Vectors = NDArray[Any]
OTHER_MODEL = "other-model"
"""The control for which a second model must be named: its vector at the same place."""
TEXT_ONLY = "text-only"
"""The control for which a second run must be named: one trained without vectors answers."""


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
"""The controls that change vectors."""

WITHHELD: dict[str, str] = {
    "no-vector": "vector",
    "no-text": "text",
    "no-layer": "layer",
    "no-token": "token",
    "no-hint": "hint",
    "no-question": "question",
}
"""The controls that leave a part of the question out."""

ALL = (*CONTROLS, *WITHHELD)
"""Every control that needs nothing but the examples; those run that change a task's questions."""

WITHOUT_VECTOR = ("zero", "shuffled", "rotated", "no-vector", TEXT_ONLY)
"""The controls that leave the text whole and take the own vector away: they tell what it adds."""

_NAMED = {
    OTHER_MODEL: "name the model: --other-vectors MODEL",
    TEXT_ONLY: "name the run: --text-only RUN",
}


def get_control(name: str) -> Control:
    """Returns the control of vectors of that name."""
    if name not in CONTROLS:
        raise SelfxError(f"control {name!r}", expected=f"one of {', '.join(CONTROLS)}")
    return CONTROLS[name]


def check_control(name: str) -> None:
    """Raises SelfxError where there is no such control."""
    if name not in ALL:
        raise SelfxError(
            f"control {name!r}",
            expected=f"one of {', '.join(ALL)}",
            hint=_NAMED.get(name, ""),
        )


def changed(name: str, examples: Sequence[Example], *, seed: int = 0) -> list[Example] | None:
    """Returns the examples under a control, or None where it would leave all of them as they are.

    Where it changes some, the others stay: a question that quotes no text loses none.
    """
    check_control(name)
    if name in WITHHELD:
        fewer = [withheld(example, WITHHELD[name]) for example in examples]
        same = all(new is old for new, old in zip(fewer, examples, strict=True))
        return None if same else fewer
    if all(example.vectors is None for example in examples):
        return None
    groups = [example.group for example in examples]
    return with_vectors(examples, CONTROLS[name](stacked(examples), seed=seed, groups=groups))


def stacked(examples: Sequence[Example]) -> Vectors:
    """Returns float32 `[n, m, d]`: all vectors, zeros where an example has fewer than others."""
    held = [(row, e.vectors) for row, e in enumerate(examples) if e.vectors is not None]
    most = max(len(vectors) for _, vectors in held)
    whole = np.zeros((len(examples), most, held[0][1].shape[1]), np.float32)
    for row, vectors in held:
        whole[row, : len(vectors)] = vectors
    return whole


def with_vectors(examples: Sequence[Example], vectors: Vectors) -> list[Example]:
    """Returns the examples with `[n, m, d]` for vectors, each as many as it had."""
    return [
        example
        if example.vectors is None
        else dataclasses.replace(example, vectors=own[: len(example.vectors)])
        for example, own in zip(examples, vectors, strict=True)
    ]


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
