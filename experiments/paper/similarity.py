"""Similarity against score: §3.4, App. C.2 and Table 4 of the paper (arXiv 2511.08579).

    python -m experiments.paper.similarity --dry-run

Does an explainer do better, the more alike its activations are to the target's on the same text?
The paper takes the dot product of activations, about 85 % for Llama-3.1-8B and its Instruct
sibling, and finds that it goes with the score; the values of its Table 4, and how exactly they are
taken, were not found. Here, over the same places of the same texts and layers of like depth:

    cosine   the mean dot product of states of length 1; only where both are as wide
    cka      linear centred kernel alignment (arXiv 1905.00414), whatever the widths

Both are of models as they are before training. With a handful of explainers a rank correlation says
little: it is given with its p-value, exact for few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.command import command
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.carry import carry_out
from experiments.paper.scales import Task, setup
from experiments.paper.tables import mean_score
from experiments.paper.traces import spread
from selfx import data
from selfx.explainer.projection.files import same_depth
from selfx.explainer.projection.pairing import paired_texts
from selfx.explainer.projection.states import paired_states
from selfx.features.exemplars.texts import read_texts
from selfx.files import write_json
from selfx.weights.load import LanguageModel

LEAST = 3
"""Explainers for a correlation."""


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The experiment."""

    task: Task = "activation-patching"
    text: Path | None = None
    """What both models read; none takes what comes with selfx."""
    places: int = 2000
    """Pairs of tokens, about; a layer takes a matrix of as many squared."""


def main(config: Config) -> dict[str, Any]:
    """Prints the points, keeps them, and returns them; nothing in a dry run."""
    bench = Bench(config, setup(config.scale, config.task, config.folder))
    models = bench.setup.chosen(config.explainers)
    arms = [Arm(model, seed) for seed in config.seeds for model in models]
    scores = carry_out(f"similarity/{config.task}", bench, arms)
    if scores is None:
        return {}
    texts = read_texts(config.text or data.text_path())
    points = []
    for model in models:
        target, lm = bench.target(), bench.load(model.source)
        measured = alike(target, lm, texts, config.places)
        score = mean_score([scores[arm.name] for arm in arms if arm.model == model])
        points.append({"explainer": model.name, "score": score, **measured})
    found = {"points": points, "spearman": together(points)}
    kept = config.keep / config.scale / "similarity" / config.task / "points.json"
    write_json(kept, found)
    print("\n".join(map(line, points)), flush=True)
    return found


def alike(
    target: LanguageModel, explainer: LanguageModel, texts: Sequence[str], places: int
) -> dict[str, Any]:
    """How alike two models' residuals are on the same text: means over layers, and each layer's.

    Args:
      target, explainer: the models.
      texts: what both read.
      places: pairs of tokens to read at, about.
    """
    pieces = paired_texts(target, explainer, texts, limit=places)
    layers = same_depth(target.config.n_layers, explainer.config.n_layers)
    batches = [
        (np.asarray(x, np.float32), np.asarray(y, np.float32))
        for x, y in paired_states(target, explainer, pieces, dict(enumerate(layers)))
    ]
    x, y = (np.concatenate(side, axis=1) for side in zip(*batches, strict=True))
    real = np.linalg.norm(x[0], axis=-1) > 0
    x, y = x[:, real], y[:, real]
    found: dict[str, Any] = {"places": int(real.sum())}
    by_layer = {"cka": [cka(a, b) for a, b in zip(x, y, strict=True)]}
    if x.shape == y.shape:
        by_layer["cosine"] = (x * y).sum(axis=-1).mean(axis=1).tolist()
    for name, values in by_layer.items():
        found |= {name: spread(np.array(values)), f"{name}_by_layer": values}
    return found


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of `[n, d]` and `[n, e]`: 1 where one is the other turned and scaled."""
    grams = []
    for states in (x, y):
        centred = states - states.mean(axis=0)
        grams.append(centred @ centred.T)
    norms = np.linalg.norm(grams[0]) * np.linalg.norm(grams[1])
    return float((grams[0] * grams[1]).sum() / norms) if norms > 0 else 0.0


def together(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's rank correlation of each measure with the score, over all explainers."""
    found: dict[str, Any] = {}
    for name in ("cosine", "cka"):
        pairs = [(one[name]["mean"], one["score"]) for one in points if name in one]
        varied = len(pairs) >= LEAST and all(
            len(set(side)) > 1 for side in zip(*pairs, strict=True)
        )
        if varied:
            result = spearmanr(*zip(*pairs, strict=True))
            found[name] = {"rho": float(result.statistic), "p": float(result.pvalue)}
        else:
            found[name] = {"n": len(pairs), "said": "too few explainers, or all alike"}
    return found


def line(one: dict[str, Any]) -> str:
    """A point in words."""
    measures = [f"{name} {one[name]['mean']:.3f}" for name in ("cosine", "cka") if name in one]
    return f"{one['explainer']}: score {100 * one['score']:.1f}, {', '.join(measures)}"


if __name__ == "__main__":
    command(main, Config)
