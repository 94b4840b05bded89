"""The experiment on states, once, tiny: that its parts fit, and who is told what."""

import dataclasses
import json

from experiments import states
from selfx.tasks.store import load_examples


def test_those_that_read_are_told_the_hint_and_the_blind_one_the_question(tmp_path, monkeypatch):
    told = {}
    real = states.asked

    def spied(lm, runs, data, work, evaluation):
        from selfx.explainer.answer import load_explainer

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
    for path in config.keep.iterdir():
        assert str(tmp_path) not in path.read_text(), path.name
