"""Confidence in an evaluation: of the answers given, fitted where it may be."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfx.evaluation.confidence import HELD_OUT, LEARNED, STRANGE, fitting_examples
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.statistics.recalibrate import TEMPERATURES
from selfx.explainer.answer import untrained
from selfx.explainer.likelihood import log_probabilities
from selfx.explainer.run import digest
from selfx.explainer.training import Training
from selfx.explainer.watch import divide
from selfx.tasks.store import load_examples

QUICK = Evaluation(("zero",), ("majority",), max_new_tokens=3, batch_size=8)


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=32, test=8)


@pytest.fixture(scope="module")
def explainer(tiny_lm):
    return dataclasses.replace(untrained(tiny_lm, Training(style="plain")), name="tiny")


@pytest.fixture(scope="module")
def done(explainer, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores") / "scores"
    return out, evaluate(explainer, data, out, QUICK)


def test_it_is_the_probability_of_the_answer_that_was_given(done, explainer, data):
    """Under its own vector, under zeros with zeros; nobody else's is measured."""
    table = pq.read_table(done[0] / "predictions.parquet").to_pylist()
    examples = load_examples(data, "test")
    silent = [dataclasses.replace(e, vectors=np.zeros_like(e.vectors)) for e in examples]
    for control, asked in (("none", examples), ("zero", silent)):
        rows = [r for r in table if (r["explainer"], r["control"]) == ("tiny", control)]
        sums, _ = log_probabilities(explainer, asked, [row["prediction"] for row in rows])
        assert [row["confidence"] for row in rows] == pytest.approx(np.exp(sums), rel=1e-4)
    rest = [row["confidence"] for row in table if row["explainer"] == "majority"]
    assert rest == [None] * len(examples)


def test_it_is_fitted_on_training_examples_that_the_explainer_never_saw(done):
    found = json.loads((done[0] / "scores.json").read_text())["calibration"]
    assert list(found) == ["headline", "of", "none", "fitted", "zero"]
    assert list(found["none"]) == ["as said", "temperature", "platt"]
    assert list(found["zero"]) == ["as said"]
    fitted = found["fitted"]
    assert (fitted["on"], fitted["n"]) == (STRANGE, 32)
    assert fitted["temperature"] in TEMPERATURES
    for each in found["none"].values():
        for score in each["metrics"].values():
            assert score["low"] <= score["value"] <= score["high"]


def test_it_can_be_left_out(done, explainer, data, tmp_path):
    scores = evaluate(explainer, data, tmp_path, dataclasses.replace(QUICK, confidence=False))
    assert "calibration" not in scores
    assert scores["rows"] == done[1]["rows"]


@pytest.fixture
def run(tmp_path, explainer, data):
    """A maker: an explainer as of a run that learned from some traces."""

    def make(name, *digests, held_out=0.5, seed=0, start=""):
        folder = tmp_path / name
        folder.mkdir()
        training = Training(held_out=held_out, seed=seed, start=str(start))
        record = {
            "explainer_hash": "",
            "quantize": "",
            "origin": {},
            "training": dataclasses.asdict(training),
            "traces": [{"digest": each} for each in digests],
        }
        (folder / "config.json").write_text(json.dumps(record))
        return dataclasses.replace(explainer, name=str(folder))

    return make


def test_what_training_held_out_is_found_again(run, data):
    train, made = load_examples(data, "train") * 2, digest(data)
    train = [dataclasses.replace(e, id=f"{i}") for i, e in enumerate(train)]
    held, what = fitting_examples(run("run", made, held_out=0.7, seed=3), data, train)
    learned, _ = divide(train, 0.7, 3)
    assert what == HELD_OUT
    assert {e.id for e in held} == {e.id for e in train} - {e.id for e in learned}
    assert 20 <= len(held) < len(train)


def test_what_an_earlier_run_learned_is_not_held_out(run, data):
    train, made = load_examples(data, "train"), digest(data)
    first = run("first", made, held_out=0.0)
    cases = {
        "elsewhere": (run("elsewhere", "another"), STRANGE),
        "nothing-held": (first, LEARNED),
        "few-held": (run("few-held", made, held_out=0.1), LEARNED),
        "of-a-mixture": (run("of-a-mixture", made, "another"), LEARNED),
        "warmed-up": (run("warmed-up", "another", start=first.name), LEARNED),
        "start-is-gone": (run("start-is-gone", "another", start="nowhere"), LEARNED),
    }
    for name, (explainer, expected) in cases.items():
        examples, what = fitting_examples(explainer, data, train)
        assert (what, len(examples)) == (expected, 32), name
