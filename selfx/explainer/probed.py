"""What vectors go through, begun where a linear probe of them ends.

What tells an outcome is a small part of a residual: between it and an explainer stands all else
that the target knows, and gradients through a whole model are slow to find their way past that. A
ridge regression finds it at once, and what it finds is written as the explainer reads best, as one
of its own embeddings:

    embedding of the outcome ~ mean + (u - mean[l]) @ down[l] @ up[l]

No more of the vector is shown, unless training finds it: an explainer that only this is shown knows
what the probe knows, and says what follows from it and from the text. So the probe of the same
vectors stands beside it in every table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.explainer.reader import Reader
from selfx.ridge import fit_ridge
from selfx.tasks.example import Example
from selfx.tasks.wording import content_of


@dataclasses.dataclass(frozen=True)
class Words:
    """An explainer's own words.

    Attributes:
      tokenize: the tokens of a text.
      table: float `[v, d]`, their embeddings, of length 1 on average.
    """

    tokenize: Callable[[str], Sequence[int]]
    table: np.ndarray


def probing(
    examples: Sequence[Example], words: Words, *, rank: int, layers: int, width: int
) -> Reader:
    """`down`, `up`, `bias`, and a `scale` of 0: what the ridge regression says, and nothing else.

    Where all examples show the same layers each has a map of its own, else all share one. What is
    told apart departs from the mean as far as true outcomes do: a ridge's own predictions, shrunk
    towards it, would all look alike.

    Args:
      examples: to learn from; those without vectors are left out.
      words: the explainer's.
      rank: how many directions of the outcomes are told apart, at most.
      layers, width: the target's.

    Raises:
      SelfxError: no vectors, or outcomes that are all the same.
    """
    shown = _shown([e for e in examples if e.vectors is not None and e.layers], layers, width)
    outcomes = _outcomes(shown.examples, words)
    mean = outcomes.mean(axis=0)
    _, sizes, main = np.linalg.svd(outcomes - mean, full_matrices=False)
    kept = min(rank, int((sizes > 1e-6 * np.linalg.norm(outcomes)).sum()))
    if not kept:
        raise SelfxError("outcomes that are all the same", hint="--no-probed")
    wanted = (outcomes - mean) @ main[:kept].T
    down, up = np.zeros((layers, width, rank)), np.zeros((layers, rank, len(mean)))
    for own in shown.maps():
        down[own, :, :kept], up[own, :kept] = shown.fitted(own, wanted, main[:kept])
    bias = mean - np.einsum("ld,ldr,lre->le", shown.means, down, up)
    parts = {"scale": np.zeros(layers), "bias": bias, "down": down, "up": up}
    return Reader(**{name: jnp.asarray(part, jnp.float32) for name, part in parts.items()})


@dataclasses.dataclass(frozen=True)
class _Shown:
    """The vectors of some examples.

    Attributes:
      examples: theirs.
      centred: float64 `[n, d]`, the direction of each of their vectors less its layer's mean.
      at: int `[n]`, the layer of each.
      whose: int `[n]`, the place of the example of each.
      means: float64 `[l, d]`.
    """

    examples: Sequence[Example]
    centred: np.ndarray
    at: np.ndarray
    whose: np.ndarray
    means: np.ndarray

    def maps(self) -> list[np.ndarray]:
        """The layers that share a map, for each map."""
        first = self.examples[0].layers
        if all(example.layers == first for example in self.examples):
            return [np.array([layer]) for layer in sorted(set(first))]
        return [np.arange(len(self.means))]

    def fitted(
        self, own: np.ndarray, wanted: np.ndarray, main: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The two halves of the map from these layers' vectors to their examples' `wanted`."""
        rows = np.flatnonzero(np.isin(self.at, own))
        vectors, truth = self.centred[rows], wanted[self.whose[rows]]
        spread = vectors.std(axis=0)
        spread = np.where(spread > 0, spread, 1)
        groups = [self.examples[place].group for place in self.whose[rows]]
        down = fit_ridge(vectors / spread, truth, groups).weights / spread[:, None]
        said = np.linalg.norm(vectors @ down, axis=1).mean()
        gain = np.linalg.norm(truth, axis=1).mean() / said if said > 0 else 0.0
        return down, gain * main


def _shown(examples: Sequence[Example], layers: int, width: int) -> _Shown:
    if not examples:
        raise SelfxError("no vectors to read outcomes from", hint="--no-probed")
    vectors = np.concatenate([e.vectors for e in examples if e.vectors is not None]).astype(float)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = vectors / np.where(lengths > 0, lengths, 1)
    at = np.concatenate([np.array(e.layers) for e in examples])
    whose = np.repeat(np.arange(len(examples)), [len(e.layers) for e in examples])
    means = np.zeros((layers, width))
    for layer in np.unique(at):
        means[layer] = centred[at == layer].mean(axis=0)
    return _Shown(examples, centred - means[at], at, whose, means)


def _outcomes(examples: Sequence[Example], words: Words) -> np.ndarray:
    """Float `[n, d]`: the embedding of what each answer says; of several that were near, by share.

    Tokens that all of them have, such as what an answer begins with, are left out.
    """
    could = [example.likely or ((example.answer, 1.0),) for example in examples]
    contents = {content_of(text) for several in could for text, _ in several}
    tokens = {content: list(words.tokenize(content)) for content in contents}
    shared = set.intersection(*map(set, tokens.values()))

    def embedding(content: str) -> np.ndarray:
        ids = [i for i in tokens[content] if i not in shared] or tokens[content]
        return words.table[ids].mean(axis=0) if ids else np.zeros(words.table.shape[1])

    embeddings = {content: embedding(content) for content in contents}
    shares = np.array([sum(share for _, share in several) for several in could])
    summed = [sum(share * embeddings[content_of(t)] for t, share in several) for several in could]
    return np.stack(summed) / shares[:, None]
