"""Directions to be described: an SAE's latents, neurons, activations, differences of activations.

Each direction comes with the vector that the explainer is given and with a reader, which says how
strongly a text excites it. For latents these are the decoder's row and the encoder; for neurons,
what the neuron writes and its own activation; for the two others (which the paper keeps for a test
out of distribution) the vector itself and the projection on it, from the mean activation on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.sae import Sae
from selfx.features.exemplars.corpus import Corpus
from selfx.features.exemplars.directions import Reader, along, first_layers, neurons, of_sae
from selfx.interventions.batching import chunks, pad
from selfx.models.decoder import Decoder, forward
from selfx.models.tap import At
from selfx.tasks import facts as F
from selfx.weights.load import LanguageModel

Kind = Literal["latents", "neurons", "activations", "differences"]
KINDS: tuple[str, ...] = get_args(Kind)
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Source:
    """Directions that are read at one place.

    Attributes:
      name: what they are of, fit for a folder's name.
      reader: how strongly each is on.
      vectors: float32 `[n, d]`, in the residual stream.
      numbers: int `[n]`, what each is called where it is from.
    """

    name: str
    reader: Reader
    vectors: np.ndarray
    numbers: np.ndarray


def latents(
    target: LanguageModel, dictionary: str, wanted: int, rng: np.random.Generator
) -> list[Source]:
    """At most `wanted` latents of the dictionaries, drawn evenly from all of them.

    Raises:
      SelfxError: no dictionary there, or one that does not write to this model's residual stream.
    """
    if not dictionary:
        raise SelfxError(
            "latents without a dictionary",
            expected="--option dictionary=PATH, an SAE or a run of selfx sae train",
            hint="make one with selfx sae train, or describe others: --option directions=neurons",
        )
    saes = _dictionaries(dictionary, target.model)
    shares = _shares([len(sae.b_enc) for sae in saes.values()], wanted)
    return [
        _of_sae(name, sae, np.sort(rng.choice(len(sae.b_enc), share, replace=False)), target)
        for (name, sae), share in zip(saes.items(), shares, strict=True)
    ]


def of_neurons(
    target: LanguageModel, layers: Sequence[int], wanted: int, rng: np.random.Generator
) -> list[Source]:
    """Neurons of the MLPs of some layers, and what they write.

    Raises:
      SelfxError: a model whose MLPs are mixtures of experts.
    """
    down = target.model.blocks.down
    if down is None:
        raise SelfxError("neurons of a mixture of experts", expected="a model with one MLP a layer")
    width = target.config.d_ff
    sources = []
    for layer, share in zip(layers, _shares([width] * len(layers), wanted), strict=True):
        chosen = np.sort(rng.choice(width, share, replace=False))
        written = np.asarray(down.w[...][layer], np.float32)[chosen]
        reader = neurons(target.config, layer, chosen.tolist())
        sources.append(Source(f"neurons-layer{layer}", reader, written, chosen))
    return sources


def of_activations(
    target: LanguageModel,
    corpus: Corpus,
    layers: Sequence[int],
    wanted: int,
    rng: np.random.Generator,
) -> list[Source]:
    """Residuals at tokens of the corpus drawn at random, at most one a window and layer."""
    share = min(-(-wanted // len(layers)), len(corpus))
    rows = rng.choice(len(corpus), share, replace=False)
    places = rng.integers(np.minimum(corpus.skip, corpus.lengths[rows] - 1), corpus.lengths[rows])
    ids = [
        corpus.tokens[row, : place + 1].tolist() for row, place in zip(rows, places, strict=True)
    ]
    seen = residuals(target, ids, layers)
    return [
        _along(f"activations-layer{layer}", x, layer, x.mean(axis=0))
        for layer, x in zip(layers, seen, strict=True)
    ]


def of_differences(
    target: LanguageModel,
    facts: Sequence[F.Fact],
    layers: Sequence[int],
    wanted: int,
    rng: np.random.Generator,
) -> list[Source]:
    """Residuals at the ends of two prompts of one relation, one less the other.

    Raises:
      SelfxError: no two facts of one relation.
    """
    partners = F.partners(facts, 0, 0.0)
    if not partners:
        raise SelfxError("no two facts of one relation to take a difference of")
    bases = list(partners)
    share = -(-wanted // len(layers))
    pairs = []
    for _ in range(share):
        base = bases[rng.integers(len(bases))]
        pairs.append((base, partners[base][rng.integers(len(partners[base]))]))
    encode = functools.cache(lambda text: F.encode(target.tokenizer, text)[0])
    one, other = (
        residuals(target, [list(encode(pair[side].prompt)) for pair in pairs], layers)
        for side in (0, 1)
    )
    mean = 0.5 * (one + other).mean(axis=1)
    return [
        _along(f"differences-layer{layer}", one[i] - other[i], layer, mean[i], centred=True)
        for i, layer in enumerate(layers)
    ]


def residuals(
    target: LanguageModel, rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> np.ndarray:
    """float32 `[l, n, d]`: `resid_post` of some layers at the last token of each row."""
    model = first_layers(target.model, max(layers) + 1)
    parts = []
    for some in chunks(rows, _BATCH):
        tokens, mask = pad(some, _BATCH)
        seen = _last_residuals(model, tokens, mask, tuple(layers))
        parts.append(np.asarray(seen, np.float32)[:, : len(some)])
    return np.concatenate(parts, axis=1)


@functools.partial(jax.jit, static_argnames="layers")
def _last_residuals(
    model: Decoder, tokens: jax.Array, mask: jax.Array, layers: tuple[int, ...]
) -> jax.Array:
    last = mask.sum(axis=1)[:, None] - 1
    capture = {"resid_post": At(layers=layers)}
    out = forward(model, tokens, mask=mask, capture=capture, logits_at=last)
    x = out.captures["resid_post"]
    return jnp.take_along_axis(x, last[None, :, :, None], axis=2)[:, :, 0]


def _along(
    name: str, vectors: np.ndarray, layer: int, mean: np.ndarray, *, centred: bool = False
) -> Source:
    """Vectors read by their projection from the mean on; a difference has no mean in it."""
    kept = np.flatnonzero(np.linalg.norm(vectors if centred else vectors - mean, axis=1) > 0)
    vectors = vectors[kept]
    reader = along(vectors if centred else vectors - mean, layer=layer, centre=mean)
    return Source(name, reader, vectors, kept)


def _of_sae(name: str, sae: Sae, chosen: np.ndarray, target: LanguageModel) -> Source:
    vectors = np.asarray(sae.w_dec, np.float32)[chosen]
    if vectors.shape[1] != target.config.d_model:
        raise SelfxError(
            f"{name} writes {vectors.shape[1]} numbers at {sae.target}",
            expected=f"{target.config.d_model}, the width of the residual stream",
            hint="directions to be described lie in the residual stream",
        )
    return Source(name, of_sae(sae, chosen.tolist()), vectors, chosen)


def _dictionaries(place: str, model: Decoder) -> dict[str, Sae]:
    """The dictionary at a place, or all of a run's, by name."""
    run = Path(place).expanduser() / "sae"
    folders = sorted(path.parent for path in run.glob("*/cfg.json"))
    if not folders:
        return {Path(place).name: load_sae(place, model=model)}
    return {folder.name: load_sae(folder, model=model) for folder in folders}


def _shares(sizes: Sequence[int], wanted: int) -> list[int]:
    """How many of each to take for `wanted` in all, as even as they allow."""
    shares, left = [0] * len(sizes), wanted
    for rank, index in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        shares[index] = min(sizes[index], -(-left // (len(sizes) - rank)))
        left -= shares[index]
    return shares
