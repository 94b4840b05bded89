"""Exemplars of thousands of features over a million tokens: one pass, its time, its peak memory.

    python -m experiments.benchmarks.exemplars --text wikitext2_valid.txt.gz \\
        --out experiments/benchmarks/exemplars.json

The features are random directions in the residual stream. The text is read again and again until it
has enough tokens, each time as new documents. One process finds the exemplars and writes them, and
its peak memory is all that it ever held, the model and Python included. Another process reads the
model once more, keeps every activation of a few features, and looks in NumPy for what the pass
should have found.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import selfx
from experiments.benchmarks.loading import status
from experiments.command import command
from selfx.features.exemplars.corpus import Corpus, windows
from selfx.features.exemplars.directions import Features, along, first_layers
from selfx.features.exemplars.files import load_exemplars, mined
from selfx.features.exemplars.mine import Exemplars, Search
from selfx.features.exemplars.one_pass import Batch, batch_of
from selfx.features.exemplars.texts import read_texts
from selfx.files import write_json
from selfx.models.decoder import Decoder, forward
from selfx.models.tap import At
from selfx.progress import progress
from selfx.weights.load import LanguageModel

TIMED = 64
"""Batches on which the model alone is timed."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What to look for, and where."""

    text: Path
    """Plain text, or as `selfx.features.exemplars.texts` has it."""
    model: str = "smollm2-135m-instruct"
    layer: int = 2
    features: int = 4096
    tokens: int = 1_000_000
    context: int = 64
    batch_size: int = 16
    kept: int = 20
    """Windows of each of the three kinds."""
    checked: int = 16
    """Features that are looked for by brute force as well."""
    seed: int = 0
    out: Path | None = None
    child: Literal["", "mine", "check"] = ""
    """Used by the benchmark itself: do this with `folder`, and print the figures."""
    folder: Path | None = None


def directions(config: Config, lm: LanguageModel) -> Features:
    """Random ones."""
    rng = np.random.default_rng(config.seed)
    vectors = rng.standard_normal((config.features, lm.config.d_model))
    return along(vectors, layer=config.layer)


def corpus_of(config: Config, lm: LanguageModel) -> Corpus:
    """As many windows as have the tokens that are asked for."""
    texts = read_texts(config.text)
    once = windows(lm.tokenizer, texts, context=config.context)
    copies = -(-config.tokens // int(once.lengths.sum()))
    tokens, lengths, document, start = (
        np.concatenate([rows] * copies)
        for rows in (once.tokens, once.lengths, once.document, once.start)
    )
    document += np.repeat(np.arange(copies, dtype=np.int32), len(once)) * len(texts)
    enough = slice(int((np.cumsum(lengths) < config.tokens).sum()) + 1)
    parts = tokens[enough], lengths[enough], document[enough], start[enough]
    return Corpus(*parts, once.skip, once.lead)


def mine(config: Config, folder: Path) -> dict[str, Any]:
    """The pass, in this process, and what it took; its exemplars are in `folder`."""
    lm = selfx.load(config.model)
    features, corpus = directions(config, lm), corpus_of(config, lm)
    before = status("VmHWM")
    search = Search(config.kept, config.kept, config.kept, config.batch_size, config.seed)
    began = time.perf_counter()
    with progress("exemplars") as report:
        mined(lm, features, corpus, folder, search, report=report)
    seconds = time.perf_counter() - began
    batches = -(-len(corpus) // config.batch_size)
    tokens = int(corpus.lengths.sum())
    alone = batches * model_alone(config, lm, corpus)
    return {
        "windows": len(corpus),
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens a second": round(tokens / seconds),
        "of it the model alone": round(alone / seconds, 3),
        "peak MB before": round(before / 1e6),
        "peak MB": round(status("VmHWM") / 1e6),
    }


@jax.jit
def residual(model: Decoder, batch: Batch) -> jax.Array:
    """float32 `[b, t, d]`: what the features read; `model` ends with their layer."""
    last = model.config.n_layers - 1
    capture = {"resid_post": At(layers=(last,))}
    first = jnp.zeros((len(batch.tokens), 1), jnp.int32)
    out = forward(model, batch.tokens, mask=batch.mask, capture=capture, logits_at=first)
    return out.captures["resid_post"][0]


def model_alone(config: Config, lm: LanguageModel, corpus: Corpus) -> float:
    """Seconds a batch: the mean over some batches that lie apart, after compiling."""
    model, size = first_layers(lm.model, config.layer + 1), config.batch_size
    starts = np.linspace(0, len(corpus) - 1, TIMED).astype(int) // size * size
    jax.block_until_ready(residual(model, batch_of(corpus, 0, size)))
    began = time.perf_counter()
    for start in starts:
        jax.block_until_ready(residual(model, batch_of(corpus, int(start), size)))
    return (time.perf_counter() - began) / len(starts)


def check(config: Config, folder: Path) -> dict[str, Any]:
    """The exemplars in `folder` against sorting every activation of some features.

    Random windows need no check of their own here: which they are does not follow from
    activations; what they hold is compared as well.
    """
    lm, found = selfx.load(config.model), load_exemplars(folder)
    corpus, features = corpus_of(config, lm), directions(config, lm)
    chosen = np.linspace(0, config.features - 1, config.checked).astype(int)
    true = every_activation(config, lm, corpus, np.asarray(features.directions)[chosen])
    rows = {place: row for row, place in enumerate(zip(corpus.document, corpus.start, strict=True))}
    peaks, held, counts = [], [], []
    for f, values in zip(chosen, true, strict=True):
        got, scale = found.windows(int(f), "top"), float(values.max())
        wanted = best_peaks(values.max(axis=1), corpus.document, config.kept)
        peaks.append(np.abs(np.array([window.peak for window in got]) - wanted).max() / scale)
        held.append(off_by(found, int(f), values, rows) / scale)
        counts.append(abs(int(found.active[f]) - int((values > 0).sum())) / found.tokens)
    return {
        "features": config.checked,
        "highest difference of a top window's peak": float(max(peaks)),
        "highest difference of an activation": float(max(held)),
        "highest difference of a frequency": float(max(counts)),
    }


def every_activation(
    config: Config, lm: LanguageModel, corpus: Corpus, vectors: np.ndarray
) -> np.ndarray:
    """float32 `[n, w, t]`, 0 where a token does not count; the product in NumPy."""
    model, size = first_layers(lm.model, config.layer + 1), config.batch_size
    length = corpus.tokens.shape[1]
    values = np.zeros((len(vectors), len(corpus), length), np.float32)
    place = np.arange(length)
    counts = (place >= corpus.skip) & (place < corpus.lengths[:, None])
    with progress("brute force") as report:
        for start in range(0, len(corpus), size):
            here = slice(start, min(start + size, len(corpus)))
            x = np.asarray(residual(model, batch_of(corpus, start, size)))
            f = np.einsum("btd,nd->nbt", x[: here.stop - start], vectors, optimize=True)
            values[:, here] = np.where(counts[here], np.maximum(f, 0), 0)
            report(here.stop, len(corpus), "windows")
    return values


def best_peaks(peaks: np.ndarray, document: np.ndarray, most: int) -> np.ndarray:
    """The highest peaks, of every document only its own highest."""
    best = np.zeros(document.max() + 1, np.float32)
    np.maximum.at(best, document, peaks)
    ordered = np.sort(best[best > 0])[::-1]
    return ordered[:most]


def off_by(
    found: Exemplars, feature: int, values: np.ndarray, rows: dict[tuple[int, int], int]
) -> float:
    """The highest difference of any activation that is held from the one that was stored."""
    worst = 0.0
    for kind in found.kept:
        for window in found.windows(feature, kind):
            stored = values[rows[window.document, window.start], : len(window.ids)]
            worst = max(worst, float(np.abs(stored - window.activations).max()))
    return worst


def child(config: Config, step: str, folder: Path) -> dict[str, Any]:
    """The figures of one part, from a new process."""
    command = [sys.executable, "-m", "experiments.benchmarks.exemplars", "--child", step]
    for name, value in dataclasses.asdict(config).items():
        if name not in ("out", "child", "folder"):
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    if config.child and config.folder:
        print(json.dumps({"mine": mine, "check": check}[config.child](config, config.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        figures = child(config, "mine", Path(name))
        figures["against brute force"] = child(config, "check", Path(name))
    own = ("out", "child", "folder")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in own}
    figures |= {"config": settings | {"text": config.text.name}}
    figures |= {"cores": os.cpu_count(), "jax": jax.__version__}
    table = Table("tokens", "seconds", "of it the model", "peak, MB")
    shown = ("tokens", "seconds", "of it the model alone", "peak MB")
    table.add_row(*(str(figures[name]) for name in shown))
    Console().print(table)
    print(json.dumps(figures, indent=2))
    if config.out:
        write_json(config.out, figures)


if __name__ == "__main__":
    command(main, Config)
