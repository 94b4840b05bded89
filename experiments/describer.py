"""Are planted rules found again? The built-in describer and simulator on features known to the bit.

    python -m experiments.describer --text wikitext2_valid.txt.gz

A feature is planted for every class that occurs in the text, and for drawn tokens, stems, endings,
beginnings, mentioned words, and pairs `X after Y`: it is on where its rule holds. Once that is all;
once a fifth of its activations is replaced by anything up to the highest, and a hundredth of all
other tokens is on as well. Excerpts are picked as a pass over a corpus picks them, one half is
described, and:

    named       the description's first rule is the planted one
    equivalent  on documents that no excerpt is from, the description's prediction correlates with
                the planted rule, without the noise, at 0.9 or more
    scores      of simulation on the other half of the excerpts: of the description, of the planted
                rule itself in words, and of other features' descriptions (the mean over several)

with 95 % intervals from resampling features. Configuration and figures are kept in
`experiments/results/NAME`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import selfx
from experiments.command import command
from experiments.planted import Passage, activations, evidence, passages, planted, same
from selfx.features.descriptions.describe import describe
from selfx.features.descriptions.rules import Rule
from selfx.features.descriptions.statements import Clause, Statement, parse
from selfx.features.exemplars.excerpts import Evidence, halves
from selfx.features.scores.score import pearson, score_simulation
from selfx.features.scores.simulate import simulate
from selfx.files import write_json
from selfx.progress import progress

RESULTS = Path(__file__).parent / "results"
NOISE = {"none": (0.0, 0.0), "noisy": (0.2, 0.01)}
"""Share of the activations that are replaced, and share of other tokens that are on."""

EQUIVALENT = 0.9


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    text: Path
    """Plain text, or as `selfx.features.exemplars.texts` has it."""
    name: str = "describer"
    """Of the folder of results."""
    model: str = "smollm2-135m-instruct"
    """Only its tokenizer is used."""
    context: int = 64
    kept: int = 20
    """Excerpts of each of the three kinds."""
    each: int = 20
    """Rules of each kind; of classes there are all that occur."""
    least: int = 20
    """Windows in which a rule must hold."""
    documents: int = 4
    """Documents that these must be of."""
    held_out: float = 0.25
    """Share of the documents that no excerpt is from."""
    others: int = 8
    """Other features whose descriptions are scored on a feature's texts."""
    resamples: int = 2000
    seed: int = 0
    keep: Path = RESULTS


@dataclasses.dataclass(frozen=True)
class Tried:
    """A planted feature, what is said of it, and how that fares."""

    kind: str
    planted: str
    said: str
    named: bool
    elsewhere: float
    """The correlation on documents that no excerpt is from."""
    described: float
    itself: float
    others: float

    @property
    def recovered(self) -> bool:
        """Whether the description names the rule, or comes to the same."""
        return self.named or self.elsewhere >= EQUIVALENT


def try_all(
    rules: Sequence[tuple[str, Rule]],
    learnt: Sequence[Passage],
    unseen: Sequence[Passage],
    noise: tuple[float, float],
    config: Config,
) -> list[Tried]:
    """Every rule planted, described and scored."""
    said, scored, itself = [], [], []
    with progress("describing") as report:
        for number, (_, rule) in enumerate(rules):
            rng = np.random.default_rng((config.seed, number))
            acts = activations(rule, learnt, noise, rng)
            first, second = halves(evidence(learnt, acts, config.kept, rng))
            said.append(describe(first).text)
            scored.append(second)
            itself.append(Statement((Clause(rule, 9.0),)).text)
            report(number + 1, len(rules), "rules")
    shifts = np.linspace(0, len(rules), config.others + 2).astype(int)[1:-1]
    shuffled = [simulated([*said[n:], *said[:n]], scored) for n in shifts]
    columns = zip(
        rules,
        said,
        simulated(said, scored),
        simulated(itself, scored),
        np.mean(shuffled, axis=0),
        strict=True,
    )
    return [
        Tried(
            kind,
            rule.phrase,
            text,
            names(text, rule),
            on_unseen(text, rule, unseen),
            *map(float, scores),
        )
        for (kind, rule), text, *scores in columns
    ]


def simulated(texts: Sequence[str], scored: Sequence[Evidence]) -> np.ndarray:
    """float64 `[n]`: the signed correlations; 0 where a prediction does not vary."""
    scores = [one.correlation for one in score_simulation(texts, scored, simulate)]
    return np.nan_to_num(np.array(scores))


def names(text: str, rule: Rule) -> bool:
    """Whether the first rule of a description is this one."""
    clauses = parse(text).clauses
    return bool(clauses) and same(clauses[0].rule, rule)


def on_unseen(text: str, rule: Rule, unseen: Sequence[Passage]) -> float:
    """How a description's prediction correlates with the rule on other documents."""
    statement = parse(text)
    true = np.concatenate([rule.holds(passage.reading)[1:] for passage in unseen])
    guess = np.concatenate([statement.predict(passage.reading)[1:] for passage in unseen])
    return float(np.nan_to_num(pearson(true.astype(np.float32), guess)))


def summary(tried: Sequence[Tried], config: Config) -> dict[str, Any]:
    """Shares and mean scores, these with intervals."""
    rng = np.random.default_rng(config.seed)
    draws = rng.integers(0, len(tried), (config.resamples, len(tried)))
    figures: dict[str, Any] = {"features": len(tried)}
    for name in ("named", "recovered"):
        figures[name] = round(float(np.mean([getattr(one, name) for one in tried])), 3)
    for name in ("described", "itself", "others"):
        values = np.array([getattr(one, name) for one in tried])
        low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
        rounded = (round(float(value), 3) for value in (values.mean(), low, high))
        figures[name] = dict(zip(("mean", "low", "high"), rounded, strict=True))
    figures["separated"] = figures["described"]["low"] > figures["others"]["high"]
    return figures


def by_kind(tried: Sequence[Tried], config: Config) -> dict[str, Any]:
    """The figures of all features, and of each kind."""
    kinds = sorted({one.kind for one in tried})
    parts = {kind: [one for one in tried if one.kind == kind] for kind in kinds}
    return {"all": summary(tried, config)} | {k: summary(v, config) for k, v in parts.items()}


def shown(figures: dict[str, Any], noise: str) -> Table:
    """One noise level's figures."""
    scores = ("described", "itself", "others")
    table = Table("", "features", "named", "recovered", *scores, title=f"noise: {noise}")
    for kind, row in figures.items():
        cells = (
            f"{row[s]['mean']:.2f} ({row[s]['low']:.2f}, {row[s]['high']:.2f})" for s in scores
        )
        table.add_row(kind, *(str(row[k]) for k in ("features", "named", "recovered")), *cells)
    return table


def main(config: Config) -> None:
    """Prints and keeps the figures."""
    every = passages(config.text, selfx.load(config.model).tokenizer, config.context)
    cut = (1 - config.held_out) * (1 + max(passage.document for passage in every))
    learnt = [passage for passage in every if passage.document < cut]
    unseen = [passage for passage in every if passage.document >= cut]
    asked = ("each", "least", "documents", "seed")
    rules = [
        (kind, rule)
        for kind, rule in planted(learnt, **{name: getattr(config, name) for name in asked})
        if any(rule.holds(passage.reading)[1:].any() for passage in unseen)
    ]
    figures: dict[str, Any] = {}
    for name, noise in NOISE.items():
        tried = try_all(rules, learnt, unseen, noise, config)
        figures[name] = by_kind(tried, config)
        figures[name]["not recovered"] = [
            {"planted": one.planted, "said": one.said, "elsewhere": round(one.elsewhere, 3)}
            for one in tried
            if not one.recovered
        ]
        kinds = {kind: row for kind, row in figures[name].items() if kind != "not recovered"}
        Console(width=140).print(shown(kinds, name))
    settings = dataclasses.asdict(config) | {"text": config.text.name, "keep": None}
    write_json(config.keep / config.name / "scores.json", figures | {"config": settings})
    print(json.dumps({name: figures[name]["all"] for name in NOISE}))


if __name__ == "__main__":
    command(main, Config)
