"""How sure the explainer is of its own answers, and how far that can be believed.

Its confidence in an answer is the probability that it gives to that text and its end, after the
question and the vector that it answered. Beside it stand two that were fitted (`recalibrate`) on
questions of the train split: such as training held back, where that is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import DESCRIPTIONS
from selfx.evaluation.answers.scoring import Answered, Sure, is_right
from selfx.evaluation.asked import Asked
from selfx.evaluation.baselines.named import Bench
from selfx.evaluation.controls import changed
from selfx.evaluation.statistics.recalibrate import TEMPERATURES, fit_platt, fit_temperature, platt
from selfx.explainer.answer import Explainer
from selfx.explainer.run import Run, digest
from selfx.explainer.watch import divide
from selfx.tasks.example import Example

WEIGHED = ("none", "zero")
"""The controls under which confidence is measured."""
FITTED_ON = 200
"""Questions of the train split that confidences are fitted on, at most."""
FEWEST = 20
"""With fewer nothing is fitted."""

HELD_OUT = "examples that training held out"
STRANGE = "training examples of this trace, which the explainer did not learn from"
LEARNED = "examples that the explainer learned from"


def with_confidence(bench: Bench, answered: Sequence[Answered]) -> list[Answered]:
    """Returns the same, the explainer's own answers with how sure it was of them.

    Descriptions are left as they are: there is no right or wrong to be sure of.
    """
    if bench.scoring.kind is DESCRIPTIONS:
        return [*answered]
    name = bench.asked.explainer.name
    return [
        dataclasses.replace(run, sure=_sure(bench, run))
        if run.explainer == name and run.control in WEIGHED
        else run
        for run in answered
    ]


def fitting_examples(
    explainer: Explainer, data: Path, train: Sequence[Example]
) -> tuple[list[Example], str]:
    """Returns what confidences may be fitted on, and in words what that is.

    Where training held examples back, in this run and those that it started from, they are those;
    where it never saw the trace, all of its train split. Else, where this is not known or leaves
    fewer than `FEWEST`, the examples that it learned from, on which it is surer than elsewhere.
    """
    made, kept, seen = digest(data), {example.id for example in train}, False
    folder = explainer.name
    while folder and Run(Path(folder)).exists():
        try:
            record, training = Run(Path(folder)).record(), Run(Path(folder)).training()
        except SelfxError:
            return [*train], LEARNED
        if made in [trace.get("digest") for trace in record["traces"]]:
            seen, alone = True, len(record["traces"]) == 1
            learned, _ = divide(train, training.held_out, training.seed) if alone else (train, [])
            kept -= {example.id for example in learned}
        folder = training.start
    held = [example for example in train if example.id in kept]
    if folder and folder != explainer.name or len(held) < FEWEST:  # a start that is gone
        return [*train], LEARNED
    return held, HELD_OUT if seen else STRANGE


def _sure(bench: Bench, run: Answered) -> Sure:
    """Returns how sure the explainer was of a run's answers; its own also as fitted elsewhere."""
    asked, test = bench.asked, bench.test
    fed = test if run.control == "none" else changed(run.control, test, seed=asked.settings.seed)
    found = asked.weighed(fed or test, run.answers, TEMPERATURES, run.control)
    plain = found[:, TEMPERATURES.index(1.0)]
    if run.control != "none":
        return Sure(np.exp(plain))
    examples, what = fitting_examples(asked.explainer, bench.data, bench.train)
    if len(examples) < FEWEST:
        return Sure(np.exp(plain))
    examples = _some(examples, asked.settings.seed)
    known, right = _elsewhere(bench, asked, examples)
    place = fit_temperature(known, right)
    line = fit_platt(known[:, TEMPERATURES.index(1.0)], right)
    return Sure(
        np.exp(plain),
        {"temperature": np.exp(found[:, place]), "platt": platt(plain, line)},
        {
            "on": what,
            "n": len(examples),
            "accuracy": float(right.mean()),
            "temperature": TEMPERATURES[place],
            "platt": {"slope": line[0], "intercept": line[1]},
        },
    )


def _elsewhere(
    bench: Bench, asked: Asked, examples: Sequence[Example]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log-probabilities `[n, c]` of answers to other questions, and which were right."""
    texts = asked.said(examples, "held-out")
    scoring = bench.scoring.elsewhere(bench.data, "train", examples)
    (rows,) = scoring.rate(examples, [Answered(asked.explainer.name, "none", texts)])
    return asked.weighed(examples, texts, TEMPERATURES, "held-out"), is_right(rows)


def _some(examples: list[Example], seed: int) -> list[Example]:
    rng = np.random.default_rng((seed, 5))
    chosen = rng.choice(len(examples), min(FITTED_ON, len(examples)), replace=False)
    return [examples[index] for index in sorted(chosen)]
