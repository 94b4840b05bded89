"""Several seeds as one: known variances, and folders that do not belong together."""

import json

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import METRICS, exact_match, score
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import render
from selfx.evaluation.scores import write_evaluation
from selfx.evaluation.statistics.intervals import interval
from selfx.evaluation.statistics.seeds import EXPLAINER, alike, over_seeds


@pytest.fixture
def examples(example):
    return [example(i, i % 2 == 0, f"w{i}", group=f"g{i // 3}") for i in range(120)]


@pytest.fixture
def evaluate(tmp_path, examples):
    """A maker of folders: an explainer of some seed right where `own` says, blind where `blind`."""

    def make(name, seed, own, blind=None, *, some=examples, **changes):
        def said(hits):
            pairs = zip(some, hits, strict=True)
            return [e.answer if hit else "The output would change to <<<no>>>." for e, hit in pairs]

        runs = [Answered(f"runs/{name}", "none", said(own))]
        if blind is not None:
            runs.append(Answered(f"runs/{name}", "zero", said(blind)))
        provenance = {
            "training": {"seed": seed, "epochs": 1, "start": ""},
            "trace": {"target_hash": "ab"},
            "explainer_hash": "cd",
            **changes,
        }
        write_evaluation(
            tmp_path / name,
            some,
            [*runs, Answered("majority", "none", said(np.zeros(len(some))))],
            target="tiny",
            resamples=50,
            provenance=provenance,
        )
        return tmp_path / name

    return make


def test_seeds_that_answer_alike_are_one_seed(examples, evaluate):
    """The interval is that of the clusters alone, as of one evaluation."""
    hits = np.random.default_rng(0).random(120) < 0.6
    found = over_seeds([evaluate("a", 0, hits), evaluate("b", 1, hits)], resamples=500, seed=4)
    own = found["rows"][0]["metrics"]["exact_match"]
    answers = [e.answer if hit else "no" for e, hit in zip(examples, hits, strict=True)]
    alone = interval(exact_match, score(examples, answers), resamples=500, seed=4)
    assert {key: own[key] for key in alone} == pytest.approx(alone)
    assert (own["spread"], own["by_seed"]) == (0, [hits.mean()] * 2)


def test_the_spread_of_seeds_is_in_the_interval(evaluate):
    """All right, none, and every second cluster: as wide as the seeds are apart."""
    part = np.arange(120) // 3 % 2 == 0
    folders = [evaluate(n, s, h) for n, s, h in (("a", 5, part | True), ("b", 6, part & False))]
    two = over_seeds(folders, resamples=400)["rows"][0]["metrics"]["exact_match"]
    assert (two["value"], two["low"], two["high"]) == (0.5, 0.0, 1.0)
    three = over_seeds([*folders, evaluate("c", 7, part)], resamples=400)
    own = three["rows"][0]["metrics"]["exact_match"]
    assert own["by_seed"] == [1.0, 0.0, 0.5]
    assert own["spread"] == pytest.approx(0.5)
    assert three["seeds"] == [5, 6, 7]
    assert three["folders"] == ["a", "b", "c"]


def test_the_error_is_that_of_clusters_and_of_seeds_together(evaluate):
    """Four seeds whose rates differ: variance of the mean = between seeds / 4 + of the clusters."""
    rng = np.random.default_rng(1)
    common = np.repeat(rng.random(40), 3)
    hits = [common < rate for rate in (0.2, 0.4, 0.6, 0.8)]
    folders = [evaluate(f"s{i}", i, hit) for i, hit in enumerate(hits)]
    own = over_seeds(folders, resamples=4000)["rows"][0]["metrics"]["exact_match"]
    mean = np.mean(hits, axis=0)
    clusters = np.var(mean.reshape(40, 3).mean(axis=1)) / 40
    rates = np.mean(hits, axis=1)
    error = np.sqrt(np.var(rates, ddof=1) / 4 + clusters)
    width = (own["high"] - own["low"]) / (2 * 1.96)
    assert own["value"] == pytest.approx(rates.mean())
    assert width == pytest.approx(error, rel=0.12)


def test_the_lift_is_paired_seed_by_seed(evaluate):
    """Seeds far apart whose lift is the same: the lift is known far better than the scores."""
    rng = np.random.default_rng(2)
    luck = rng.random(120)
    folders = [
        evaluate(f"s{i}", i, luck < rate + 0.2, luck < rate)
        for i, rate in enumerate((0.1, 0.4, 0.7))
    ]
    found = over_seeds(folders, resamples=500)
    assert [(r["explainer"], r["control"]) for r in found["rows"]] == [
        (EXPLAINER, "none"),
        (EXPLAINER, "zero"),
        ("majority", "none"),
    ]
    lift, own = found["lift"], found["rows"][0]["metrics"]["exact_match"]
    gain = lift["metrics"]["exact_match"]
    assert (lift["explainer"], lift["control"]) == (EXPLAINER, "zero")
    assert gain["value"] == pytest.approx(np.mean(gain["by_seed"]))
    assert gain["high"] - gain["low"] < 0.5 * (own["high"] - own["low"])
    assert set(lift["metrics"]) == set(lift["smallest"]) == set(METRICS)
    assert 0 < lift["smallest"]["exact_match"] < 0.2


def test_what_does_not_belong_together_is_refused(examples, evaluate):
    hits = np.ones(120, bool)
    first = evaluate("first", 0, hits)
    others = {
        "each seed once": evaluate("same-seed", 0, hits),
        "differ in trace": evaluate("trace", 1, hits, trace={"target_hash": "other"}),
        "differ in training": evaluate("long", 1, hits, training={"seed": 1, "epochs": 9}),
        "differ in beams": evaluate("beams", 1, hits, evaluation={"beams": 4}),
        "differ in longest answer": evaluate("cut", 1, hits, evaluation={"max_new_tokens": 9}),
        "different questions": evaluate("fewer", 1, hits[:60], some=examples[:60]),
        "does not say what": evaluate("untold", 1, hits, training={}),
    }
    for message, folder in others.items():
        with pytest.raises(SelfxError, match=message):
            over_seeds([first, folder])
    with pytest.raises(SelfxError, match="1 evaluations"):
        over_seeds([first])
    loaded = [load_evaluation(folder) for folder in (first, *others.values())]
    assert alike(loaded) == []
    second = load_evaluation(evaluate("second", 1, hits))
    assert alike([loaded[0], second, *loaded[2:]]) == [[loaded[0], second]]


@pytest.mark.parametrize(("soften", "own"), [(0.1, 4), (0.0, 1)])
def test_beams_left_to_the_training_are_those_that_it_wants(evaluate, soften, own):
    """An older evaluation has their number, a newer one 0 where nobody chose another."""
    hits = np.ones(120, bool)

    def asked(seed, beams):
        training = {"seed": seed, "epochs": 1, "start": "", "soften": soften}
        name, evaluation = f"s{seed}-{beams}", {"beams": beams}
        return evaluate(name, seed, hits, training=training, evaluation=evaluation)

    left = asked(0, 0)
    assert over_seeds([left, asked(1, own)], resamples=50)["seeds"] == [0, 1]
    with pytest.raises(SelfxError, match="differ in beams"):
        over_seeds([left, asked(2, 5 - own)])


def test_a_report_of_several_seeds_can_be_made(evaluate):
    folders = [evaluate(f"s{i}", i, np.arange(120) % (i + 2) == 0) for i in range(2)]
    assert json.dumps(over_seeds(folders, resamples=50), allow_nan=False)
    assert "<html" in render([load_evaluation(folder) for folder in folders])
