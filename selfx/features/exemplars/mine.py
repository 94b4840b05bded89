"""Exemplars: the windows of a corpus that say most of a feature, from one pass for thousands.

Three kinds of windows are kept for every feature (`selfx.features.exemplars.one_pass.KINDS`):

    top      the highest peaks, exactly, at most one window a document
    sample   a uniform sample of the windows where it is on; its quantiles are the feature's own
    random   a uniform sample of all windows, on or not

A window's activations are kept whole, so everything later works from what was measured here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from selfx.errors import SelfxError
from selfx.features.exemplars import one_pass
from selfx.features.exemplars.corpus import Corpus
from selfx.features.exemplars.directions import Reader, check_reader, first_layers
from selfx.features.exemplars.one_pass import KINDS
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

STATE = ".pass.safetensors"


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of text, and a feature's activation at each of its tokens.

    Attributes:
      ids: int32 `[t]`.
      activations: float32 `[t]`; 0 where they do not count.
      document: which document it is of.
      start: where in the document it starts, in tokens.
      kind: one of `KINDS`.
      skip: how many first positions do not count.
    """

    ids: np.ndarray
    activations: np.ndarray
    document: int
    start: int
    kind: str
    skip: int = 0

    @property
    def peak(self) -> float:
        """The highest activation."""
        return float(self.activations.max(initial=0.0))


@dataclasses.dataclass(frozen=True)
class Kept:
    """Windows of one kind for every feature, best first.

    Attributes:
      window: int32 `[n, k]`, a row of the corpus; -1 where there are no more.
      activations: float32 `[n, k, t]`.
    """

    window: np.ndarray
    activations: np.ndarray


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """What a pass found for `n` features.

    Attributes:
      corpus: the windows that are named, all or only those.
      kept: `{kind: Kept}`.
      tokens: how many tokens were read.
      active: int32 `[n]`, at how many each feature was on.
      fired: int32 `[n]`, in how many windows.
      mean: float32 `[n]`, the mean activation over all tokens.
      deviation: float32 `[n]`, its standard deviation.
      settings: what decided the outcome, JSON values only.
    """

    corpus: Corpus
    kept: dict[str, Kept]
    tokens: int
    active: np.ndarray
    fired: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.active)

    def windows(self, feature: int, kind: str) -> list[Window]:
        """A feature's windows of one kind: `top` from the highest peak down."""
        if kind not in self.kept:
            raise SelfxError(f"exemplars of kind {kind!r}", expected=f"one of {', '.join(KINDS)}")
        kept = self.kept[kind]
        rows = zip(kept.window[feature].tolist(), kept.activations[feature], strict=True)
        return [self._window(row, values, kind) for row, values in rows if row >= 0]

    def quantiles(self, feature: int, bins: int = 5) -> list[list[Window]]:
        """The feature's sample in `bins` equal parts by peak, from the weakest to the strongest.

        The sample is uniform among all windows where the feature is on, so the parts are samples
        of the quantiles of its peaks.
        """
        ordered = sorted(self.windows(feature, "sample"), key=lambda window: window.peak)
        edges = np.linspace(0, len(ordered), bins + 1).round().astype(int)
        return [ordered[low:high] for low, high in zip(edges[:-1], edges[1:], strict=True)]

    def frequency(self, feature: int) -> float:
        """The share of tokens at which the feature is on."""
        return float(self.active[feature]) / max(self.tokens, 1)

    def peak(self, feature: int) -> float:
        """The highest activation met; 0 if it was never on."""
        return float(self.kept["top"].activations[feature, :1].max(initial=0.0))

    def _window(self, row: int, values: np.ndarray, kind: str) -> Window:
        corpus = self.corpus
        length = int(corpus.lengths[row])
        place = int(corpus.document[row]), int(corpus.start[row])
        return Window(corpus.tokens[row, :length], values[:length], *place, kind, corpus.skip)


@dataclasses.dataclass(frozen=True)
class Search:
    """What to look for, and how.

    Attributes:
      top: how many windows of the highest peaks.
      sample: how many windows where a feature is on.
      random: how many windows, on or not.
      batch_size: windows read at once.
      seed: of the two samples.
    """

    top: int = 20
    sample: int = 20
    random: int = 20
    batch_size: int = 16
    seed: int = 0


def mine(
    lm: LanguageModel,
    features: Reader,
    corpus: Corpus,
    out: str | Path | None = None,
    search: Search | None = None,
    *,
    save_every: int = 100,
    report: Report = silent,
) -> Exemplars:
    """The exemplars of all features, from one pass over the corpus.

    Args:
      lm: the model.
      features: what to read of it.
      corpus: where to look.
      out: a folder where the pass goes on from where it stopped; None keeps nothing on disk.
      search: what to look for; None is `Search()`.
      save_every: batches between two saved states.
      report: told of progress.

    Raises:
      SelfxError: features that do not fit the model, an activation that is not finite, or a folder
        that holds another pass.
    """
    check_reader(features, lm.config)
    settings = settings_of(lm, features, corpus, search)
    sizes = {kind: settings[kind] for kind in KINDS}
    if min(*sizes.values(), settings["batch_size"]) < 1:
        raise SelfxError(f"a search with {search}", expected="sizes of 1 or more")
    state = one_pass.start(features.count, sizes, corpus.tokens.shape[1])
    state = _pass(lm, features, corpus, state, settings, out, save_every, report)
    return _settled(state, corpus, settings)


def settings_of(
    lm: LanguageModel, features: Reader, corpus: Corpus, search: Search | None = None
) -> dict[str, Any]:
    """All that decides the outcome of a pass, as JSON values."""
    return {
        "model": lm.hash,
        "features": one_pass.fingerprint(features),
        "corpus": corpus.digest,
        "site": features.site,
        "layer": features.layer,
        **dataclasses.asdict(search or Search()),
    }


def _pass(
    lm: LanguageModel,
    features: Reader,
    corpus: Corpus,
    state: one_pass.State,
    settings: dict[str, Any],
    out: str | Path | None,
    save_every: int,
    report: Report,
) -> one_pass.State:
    """The state after all windows."""
    path = None if out is None else Path(out) / STATE
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    done = 0
    if path is not None:
        state, done = one_pass.load_state(path, state, mark)
    model = first_layers(lm.model, features.layer + 1)
    seed, size = jnp.uint32(settings["seed"]), settings["batch_size"]
    for number, first in enumerate(range(done, len(corpus), size), start=1):
        state = one_pass.step(state, model, features, one_pass.batch_of(corpus, first, size), seed)
        last = first + size >= len(corpus)
        if path is not None and (number % save_every == 0 or last):
            one_pass.check_finite(state)
            one_pass.save_state(path, state, first + size, mark)
        report(min(first + size, len(corpus)), len(corpus), "windows")
    one_pass.check_finite(state)
    return state


def _settled(state: one_pass.State, corpus: Corpus, settings: dict[str, Any]) -> Exemplars:
    """The exemplars that a finished state holds, with only the windows that they name."""
    picks = {kind: state.picks[kind] for kind in KINDS}
    used = np.unique(np.concatenate([np.asarray(p.window).ravel() for p in picks.values()]))
    used = used[used >= 0]
    kept = {
        kind: Kept(renumbered(np.asarray(p.window), used), np.asarray(p.activations))
        for kind, p in picks.items()
    }
    tokens = int(state.tokens)
    mean = np.asarray(state.total) / max(tokens, 1)
    spread = np.asarray(state.squares) / max(tokens, 1) - mean**2
    named = dataclasses.replace(
        corpus,
        tokens=corpus.tokens[used],
        lengths=corpus.lengths[used],
        document=corpus.document[used],
        start=corpus.start[used],
    )
    counts = np.asarray(state.active), np.asarray(state.fired)
    deviation = np.sqrt(np.maximum(spread, 0.0))
    return Exemplars(named, kept, tokens, *counts, mean, deviation, settings)


def renumbered(window: np.ndarray, used: np.ndarray) -> np.ndarray:
    """int32 `[n, k]`: places of windows among those `used`; -1 stays."""
    return np.where(window < 0, -1, np.searchsorted(used, window)).astype(np.int32)
