"""The experiment on states, once, tiny: that its parts fit, and who is told what."""

import dataclasses
import json

import numpy as np

import selfx
from experiments import states
from selfx.evaluation import asked
from selfx.evaluation.other_model import other_model
from selfx.evaluation.run import Evaluation
from selfx.explainer import reply
from selfx.explainer.answer import load_explainer
from selfx.explainer.job import prepare
from selfx.explainer.mixture import read_mixture
from selfx.explainer.run import Run
from selfx.progress import silent
from selfx.tasks.store import load_examples, load_trace


def test_those_that_read_are_told_the_hint_and_the_blind_one_the_question(tmp_path, monkeypatch):
    told = {}
    real = states.asked

    def spied(lm, runs, data, work, evaluation):
        example = load_examples(data, "test")[0]
        for run in (runs["seed-0"], evaluation.text_only):
            prompter = load_explainer(run, lm).prompter
            told[len(told)] = prompter.wordings(example)[0], example
        return real(lm, runs, data, work, evaluation)

    monkeypatch.setattr(states, "asked", spied)
    config = dataclasses.replace(states.TINY, work=tmp_path / "work", keep=tmp_path / "keep")
    found = states.main(config)
    (reads, example), (blind, _) = told[0], told[1]
    assert example.details["question"] not in reads
    assert "Some question." in reads
    assert blind == example.question
    controls = [row["control"] for row in found["rows"] if row["explainer"] == "explainer"]
    assert controls == ["none", "zero", "no-hint", "text-only"], "the question is missing anyway"
    names = [row["explainer"] for row in found["rows"] if row["explainer"] != "explainer"]
    assert names == ["probe", "shifted-scores"]
    for seed in config.seeds:
        kept = json.loads((config.keep / f"seed-{seed}.json").read_text())
        assert kept["provenance"]["training"]["withhold"] == ["question", "layer"]
        assert kept["provenance"]["evaluation"]["text_only"] == "run-blind"
    learned_from_its_questions(config)
    shots_are_told_no_more(config, monkeypatch)
    for path in config.keep.iterdir():
        assert str(tmp_path) not in path.read_text(), path.name


def learned_from_its_questions(config):
    """What stands in the rows that a run learns from; and whose states they are: the model's own,
    which another of the same weights has too."""
    data, lm = config.work / "trace", selfx.load(str(config.work / "world" / "model"))
    examples = load_examples(data, "train")
    for name, reads in (("run-seed-0", True), ("run-blind", False)):
        run = Run(config.work / name)
        assert run.record()["traces"][0]["states"] == "0,1"
        job = prepare(lm, read_mixture([data], (), lm.config, 0.1), run.training())
        texts = {
            row.id: lm.tokenizer.decode(row.ids) for several in job.plan.rows for row in several
        }
        told = [one.details["question"] in texts[one.id] for one in examples if one.id in texts]
        assert told == [not reads] * len(texts)
        # The others are those that the probe was fitted to.
        assert 0 < len(texts) < len(examples) if reads else len(texts) == len(examples)
    again = other_model(lm, lm, load_trace(data), layers=2, width=32)(examples)
    for new, old in zip(again, examples, strict=True):
        np.testing.assert_allclose(new.vectors, old.vectors, atol=2e-5)


def shots_are_told_no_more(config, monkeypatch):
    """The model before training, shown examples first, reads of none what its explainer never
    does; and who learned shares is asked for the likeliest of several answers now, too."""
    data, lm = config.work / "trace", selfx.load(str(config.work / "world" / "model"))
    explainer, seen, beams = load_explainer(config.work / "run-seed-0", lm), [], []

    def answers(explainer, examples, *args, **how):
        seen.extend(explainer.prompter.wordings(example)[0] for example in examples)
        beams.append(how["beams"])
        return [""] * len(examples)

    monkeypatch.setattr(asked, "answer", answers)
    monkeypatch.setattr(reply, "answer", answers)
    train, test = load_examples(data, "train"), load_examples(data, "test")[:2]
    settings = Evaluation(max_new_tokens=1, beams=4)
    asked.Asked(explainer, test, settings, lambda *key: key[-1](), silent).few_shot(train)
    assert len(seen) == 2
    assert all(text.count("Some question.") > 1 for text in seen)
    assert not any(e.details["question"] in text for text in seen for e in (*train, *test))
    reply.replies(explainer, test, max_new_tokens=1)
    assert beams == [4, 4]
