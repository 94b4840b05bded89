"""One explainer trained several times, with nothing but the seed between them.

Each seed's scores are of the same questions. A row's score is the mean over seeds; its interval
draws clusters of questions and seeds anew, both at once (Owen's pigeonhole bootstrap, Annals of
Applied Statistics 1, 2007): all seeds see the same draw of questions, as they did when they were
asked. Of `s` seeds `s - 1` are drawn, so that their spread is not taken for smaller than it is (Rao
and Wu, JASA 83, 1988). With two or three seeds that spread is itself hardly known: in simulations
of 40 clusters intervals that say 95 % held the truth in 87 % of cases with two seeds far apart, in
93 % with five, and in 97 to 99 % with seeds close together. Every seed's own score stands beside
the mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import Kind, kind_of, main_explainer
from selfx.evaluation.controls import WITHOUT_VECTOR
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.reread import outcomes_in
from selfx.evaluation.statistics.intervals import RESAMPLES, resample, summary
from selfx.evaluation.statistics.power import smallest_difference
from selfx.evaluation.statistics.rows import Array, Metric, Rows
from selfx.explainer.training import beams_of
from selfx.run_folder import is_later

EXPLAINER = "explainer"
"""What the explainer of every seed is called here, whatever its folder."""

Name = tuple[str, str]


@dataclass(frozen=True)
class Seeded:
    """An evaluation of one seed.

    Attributes:
        name: of its folder.
        scores: what `scores.json` holds.
        ids: of the questions, in their order.
        rows: the outcomes by explainer and control, its own explainer called `EXPLAINER`.
    """

    name: str
    scores: dict[str, Any]
    ids: tuple[str, ...]
    rows: dict[Name, Rows]

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return int(_training(self.scores)["seed"])


def over_seeds(
    folders: Sequence[str | Path], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Returns the scores of several evaluation folders as one: `seeds`, `rows` and the `lift`.

    Every metric has `value`, `low` and `high`, the `spread` (standard deviation) over seeds, and
    `by_seed`. The lift is over the best row without the vector by its mean over seeds.

    Args:
        folders: of explainers trained with the same settings but for the seed, on one trace.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        SelfxError: fewer than two folders, of different traces or settings, or one seed twice.
    """
    evaluations = [load_evaluation(folder) for folder in folders]
    return of_evaluations(evaluations, resamples=resamples, seed=seed)


def of_evaluations(
    evaluations: Sequence[Mapping[str, Any]], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Returns what `over_seeds` has of folders that are loaded already."""
    seeded = [_seeded(each) for each in evaluations]
    check_alike(seeded)
    first = seeded[0]
    kind = kind_of(first.scores["task"])
    names = [name for name in first.rows if all(name in each.rows for each in seeded)]
    drawn = _Drawn(seeded, names, _metrics(kind, first.rows[names[0]]), resamples, seed)
    return {
        "task": first.scores["task"],
        "target": first.scores["target"],
        "n": first.scores["n"],
        "headline": kind.headline,
        "seeds": [each.seed for each in seeded],
        "folders": [each.name for each in seeded],
        "rows": [
            {"explainer": name[0], "control": name[1], "metrics": drawn.summaries(name)}
            for name in names
        ],
        "lift": _lift(drawn, names, kind),
    }


def alike(evaluations: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Returns those of some evaluations that differ by the seed alone, two or more together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in evaluations:
        if "seed" in _training(each["scores"]):
            asked = each["predictions"]["id"].slice(0, each["scores"]["n"]).to_pylist()
            groups.setdefault(f"{_same(each['scores'])} {asked}", []).append(each)
    several = [group for group in groups.values() if len(group) > 1]
    return [g for g in several if len({_training(e["scores"])["seed"] for e in g}) == len(g)]


def check_alike(seeded: Sequence[Seeded]) -> None:
    """Raises SelfxError where evaluations differ by more than the seed of training, or by less."""
    names = ", ".join(each.name for each in seeded)
    if len(seeded) < 2:
        raise SelfxError(f"{len(seeded)} evaluations", expected="one of each of several seeds")
    if any(each.ids != seeded[0].ids for each in seeded):
        raise SelfxError(f"evaluations of different questions: {names}", expected="one trace")
    records = [_record(each.scores) for each in seeded]
    strange = [key for key in records[0] if any(r[key] != records[0][key] for r in records)]
    if strange:
        raise SelfxError(
            f"evaluations that differ in {', '.join(strange)}: {names}",
            expected="one trace and the same settings, but for the seed of training",
        )
    seeds = [each.seed for each in seeded]
    if len(set(seeds)) < len(seeds):
        raise SelfxError(
            f"training seeds {', '.join(map(str, seeds))} of {names}", expected="each seed once"
        )


class _Drawn:
    """Every row's scores on the same resamples of clusters and seeds."""

    def __init__(
        self,
        seeded: Sequence[Seeded],
        names: Sequence[Name],
        metrics: Mapping[str, Metric],
        resamples: int,
        seed: int,
    ):
        parallel = [each.rows[name] for name in names for each in seeded]
        drawn = resample(parallel, resamples, seed)
        self.groups, self.metrics = drawn.groups, metrics
        self._rows = dict(zip(names, _chunks(drawn.rows, len(seeded)), strict=True))
        self._weights = drawn.weights
        count = len(seeded)
        rng = np.random.default_rng((seed, 3))
        picked = rng.integers(count, size=(resamples, count - 1))
        times = (picked[:, :, None] == np.arange(count)).mean(axis=1)
        self._times = np.concatenate([np.full((1, count), 1 / count), times])

    def scores(self, name: Name, metric: str) -> Array:
        """Returns `[1 + r, s]`, each seed's score; the first row is the data's own."""
        found = [self.metrics[metric](rows, self._weights) for rows in self._rows[name]]
        return np.stack(found, axis=1)

    def summary(self, scores: Array) -> dict[str, Any]:
        """Returns the mean of scores `[1 + r, s]` over seeds with its interval."""
        mean = (scores * self._times).sum(axis=1)
        return {
            **summary(mean, self.groups),
            "spread": float(scores[0].std(ddof=1)),
            "by_seed": scores[0].tolist(),
        }

    def summaries(self, name: Name) -> dict[str, Any]:
        """Returns every metric's of a row."""
        return {metric: self.summary(self.scores(name, metric)) for metric in self.metrics}

    def error(self, scores: Array) -> float:
        """Returns the standard error of the mean of scores `[1 + r, s]` over seeds."""
        mean = (scores[1:] * self._times[1:]).sum(axis=1)
        return float(np.nanstd(mean) * np.sqrt(self.groups / max(self.groups - 1, 1)))


def _lift(drawn: _Drawn, names: Sequence[Name], kind: Kind) -> dict[str, Any] | None:
    own = (EXPLAINER, "none")
    without = [name for name in names if name[0] == EXPLAINER and name[1] in WITHOUT_VECTOR]
    if own not in names or not without:
        return None
    best = max(without, key=lambda name: drawn.scores(name, kind.headline)[0].mean())
    gains = {each: drawn.scores(own, each) - drawn.scores(best, each) for each in drawn.metrics}
    return {
        "explainer": EXPLAINER,
        "control": best[1],
        "metrics": {name: drawn.summary(found) for name, found in gains.items()},
        "smallest": {
            name: smallest_difference(drawn.error(found), drawn.groups)
            for name, found in gains.items()
        },
    }


def _seeded(evaluation: Mapping[str, Any]) -> Seeded:
    scores, table = evaluation["scores"], evaluation["predictions"]
    if "seed" not in _training(scores):
        raise SelfxError(
            f"{evaluation['name']}, which does not say what its explainer was trained with",
            expected="an evaluation of a trained run",
        )
    kind, main = kind_of(scores["task"]), main_explainer(scores)[0]
    parts: dict[Name, list[int]] = {}
    whose = zip(table["explainer"].to_pylist(), table["control"].to_pylist(), strict=True)
    for row, name in enumerate(whose):
        parts.setdefault(name, []).append(row)
    rows: dict[Name, Rows] = {
        (EXPLAINER if name[0] == main else name[0], name[1]): outcomes_in(_take(table, its), kind)
        for name, its in parts.items()
    }
    ids = tuple(_take(table, next(iter(parts.values())))["id"].to_pylist())
    return Seeded(str(evaluation["name"]), scores, ids, rows)


def _take(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    return table.take(pa.array(rows, pa.int64()))


def _metrics(kind: Kind, rows: Rows) -> dict[str, Metric]:
    """Returns the metrics of which there is a column for each example."""
    held = getattr(rows, "values", None)
    return {name: metric for name, metric in kind.metrics.items() if held is None or name in held}


def _chunks(rows: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _training(scores: Mapping[str, Any]) -> dict[str, Any]:
    return scores.get("provenance", {}).get("training") or {}


def _record(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that evaluations of several seeds must have in common, by name."""
    provenance = scores.get("provenance", {})
    training = {
        name: value
        for name, value in _training(scores).items()
        if name != "seed" and not is_later(None, value)  # as if it had never been there
    }
    # A warm-up that each seed started from is a folder of that seed's own.
    training["start"] = bool(training.get("start"))
    asked = provenance.get("evaluation") or {}
    keys = ("trace", "explainer_model", "explainer_hash")
    return {
        "task": scores["task"],
        "target": scores["target"],
        "questions": scores["n"],
        **{key: provenance.get(key) for key in keys},
        "beams": asked.get("beams", 1) or beams_of(training.get("soften", 0.0)),
        "longest answer": asked.get("max_new_tokens"),
        "training": training,
    }


def _same(scores: Mapping[str, Any]) -> str:
    return json.dumps(_record(scores), sort_keys=True)
