"""What vectors go through, begun where a linear probe of them ends.

What tells an outcome is a small part of a residual: between it and an explainer stands all else
that the target knows, and gradients through a whole model are slow to find their way past that. A
ridge regression on all vectors of an example finds it at once, and what it finds is written as the
explainer reads best, as one of its own embeddings:

    share of an outcome ~ softmax over outcomes of sharpness * the ridge's log share of it
    read                = the outcomes' embeddings, by share

as sure as it has been right about examples that it was not fitted to; an explainer learns from such
examples alone, or it would learn to trust it too far. No more of the vectors is shown, unless
training finds it: an explainer that only this is shown knows what the regression knows, and says
what follows from it and from the text.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from selfx.errors import SelfxError
from selfx.explainer.reader import Reader
from selfx.ridge import fit_ridge
from selfx.tasks.example import Example
from selfx.tasks.wording import content_of

MOST = 500
"""Outcomes that are told apart: the commonest."""
LEAST = 1e-6
"""Below which a share is as good as none: its logarithm is what is fitted."""
SHARPNESS = (0.01, 10.0)
"""From least to most."""


@dataclasses.dataclass(frozen=True)
class Words:
    """An explainer's own words.

    Attributes:
      tokenize: the tokens of a text.
      table: float `[v, d]`, their embeddings, of length 1 on average.
    """

    tokenize: Callable[[str], Sequence[int]]
    table: np.ndarray


def probing(examples: Sequence[Example], words: Words, *, layers: int, width: int) -> Reader:
    """`keys`, `level` and `words`, and a `scale` of 0: what the ridge says, and nothing else.

    Where all examples show the same layers each has keys of its own, else all share them.

    Args:
      examples: to learn from; those without vectors are left out.
      words: the explainer's.
      layers, width: the target's.

    Raises:
      SelfxError: no vectors, or outcomes that are all the same.
    """
    examples = [e for e in examples if e.vectors is not None and e.layers]
    if not examples:
        raise SelfxError("no vectors to read outcomes from", hint="--probed 0")
    outcomes, shares = _outcomes(examples)
    told = np.flatnonzero(shares.sum(axis=1))
    shares = shares[told]
    shown = _shown([examples[row] for row in told], layers, width)
    features = shown.features()
    spread = features.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    groups = [example.group for example in shown.examples]
    ridge = fit_ridge(features / spread, np.log(np.maximum(shares, LEAST)), groups)
    sharpness = _sharpness(ridge.left_out, shares)
    keys = shown.by_layer(sharpness * ridge.weights / spread[:, None])
    level = sharpness * ridge.constant - np.einsum("ld,ldk->lk", shown.means, keys)
    parts = {
        "scale": np.zeros(layers),
        "keys": keys,
        "level": level,
        "words": _embedded(outcomes, words),
    }
    return Reader(**{name: jnp.asarray(part, jnp.float32) for name, part in parts.items()})


@dataclasses.dataclass(frozen=True)
class _Shown:
    """The vectors of some examples.

    Attributes:
      examples: theirs.
      centred: float64 `[m, d]` for each, the directions of its vectors less their layers' means.
      means: float64 `[l, d]`.
    """

    examples: Sequence[Example]
    centred: Sequence[np.ndarray]
    means: np.ndarray

    @property
    def own(self) -> tuple[int, ...]:
        """The layers that have keys of their own, where all examples show just these."""
        first = self.examples[0].layers
        alike = all(example.layers == first for example in self.examples)
        return first if alike and len(set(first)) == len(first) else ()

    def features(self) -> np.ndarray:
        """Float64 `[n, m d]`, or `[n, d]` where all layers share keys: each one's mean vector."""
        if self.own:
            return np.stack([vectors.ravel() for vectors in self.centred]) / len(self.own)
        return np.stack([vectors.mean(axis=0) for vectors in self.centred])

    def by_layer(self, weights: np.ndarray) -> np.ndarray:
        """The weights of features as keys, float64 `[l, d, k]`."""
        layers, width = self.means.shape
        if not self.own:
            return np.broadcast_to(weights, (layers, *weights.shape))
        keys = np.zeros((layers, width, weights.shape[1]))
        keys[list(self.own)] = weights.reshape(len(self.own), width, -1)
        return keys


def _shown(examples: Sequence[Example], layers: int, width: int) -> _Shown:
    units = []
    for example in examples:
        vectors = np.asarray(example.vectors, np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        units.append(vectors / np.where(lengths > 0, lengths, 1))
    every, at = np.concatenate(units), np.concatenate([np.array(e.layers) for e in examples])
    means = np.zeros((layers, width))
    for layer in np.unique(at):
        means[layer] = every[at == layer].mean(axis=0)
    centred = [u - means[list(e.layers)] for u, e in zip(units, examples, strict=True)]
    return _Shown(examples, centred, means)


def _outcomes(examples: Sequence[Example]) -> tuple[list[str], np.ndarray]:
    """The outcomes that are told apart, and of each example the share of each, float64 `[n, k]`.

    One for the true outcome's; of several that were near, as near as they were.
    """
    could = [
        [(content_of(text), share) for text, share in example.likely or ((example.answer, 1.0),)]
        for example in examples
    ]
    weighed: dict[str, float] = defaultdict(float)
    for several in could:
        for content, share in several:
            weighed[content] += share
    outcomes = sorted(sorted(weighed, key=lambda content: (-weighed[content], content))[:MOST])
    column = {content: number for number, content in enumerate(outcomes)}
    if len(weighed) > MOST and (held := sum(weighed[one] for one in outcomes)) < len(examples) / 2:
        raise SelfxError(
            f"{len(weighed)} different outcomes; {MOST} of them are those of {held:.0f} of"
            f" {len(examples)} examples",
            expected=f"{MOST} that are those of half or more",
            hint="--probed 0",
        )
    shares = np.zeros((len(examples), len(outcomes)))
    for row, several in enumerate(could):
        for content, share in several:
            if content in column:
                shares[row, column[content]] += share
    if np.ptp(shares, axis=0).max() < 1e-9:
        raise SelfxError("outcomes that are all the same", hint="--probed 0")
    return outcomes, shares


def _sharpness(said: np.ndarray, shares: np.ndarray) -> float:
    """By what `said` `[n, k]` is multiplied for its softmax to come nearest to the shares."""

    def miss(log_sharpness: float) -> float:
        return float(-(shares * log_softmax(np.exp(log_sharpness) * said, axis=1)).sum())

    found = minimize_scalar(miss, bounds=np.log(SHARPNESS), method="bounded")
    return float(np.exp(found.x))


def _embedded(outcomes: Sequence[str], words: Words) -> np.ndarray:
    """Float `[k, d]`: the mean embedding of what each outcome says; tokens that all of them have,
    such as what an answer begins with, are left out."""
    tokens = [list(words.tokenize(outcome)) for outcome in outcomes]
    shared = set.intersection(*map(set, tokens))
    own = [[i for i in ids if i not in shared] or ids for ids in tokens]
    none = np.zeros(words.table.shape[1])
    return np.stack([words.table[ids].mean(axis=0) if ids else none for ids in own])
