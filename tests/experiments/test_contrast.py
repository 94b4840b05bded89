"""The contrast sets' experiment, once, tiny: that its parts fit."""

import dataclasses
import json

from experiments import contrast
from experiments.portable import portable
from selfx import data
from selfx.evaluation.folder import load_evaluation
from selfx.tasks.store import load_examples


def test_every_seed_is_asked_beside_one_trained_without_vectors(tmp_path):
    few = dataclasses.replace(contrast.TINY.evaluation, limit=5)
    config = dataclasses.replace(
        contrast.TINY, evaluation=few, work=tmp_path / "work", keep=tmp_path / "keep"
    )
    found = contrast.main(config)
    assert found["folders"] == ["seed-0", "seed-1"]
    names = [(row["explainer"], row["control"]) for row in found["rows"]]
    assert names[:3] == [("explainer", "none"), ("explainer", "zero"), ("explainer", "text-only")]
    assert found["lift"]["control"] in ("zero", "text-only")
    for seed in config.seeds:
        kept = json.loads((config.keep / f"seed-{seed}.json").read_text())
        assert kept["provenance"]["training"]["seed"] == seed
        assert kept["provenance"]["training"]["start"] == "run-warm-up"
        assert kept["provenance"]["evaluation"]["text_only"] == "run-blind"
    sets = {one.id: one.details["set"] for one in load_examples(config.work / "trace", "test")}
    assert {[*sets.values()].count(name) for name in sets.values()} == {config.contrast.rows}
    asked = load_evaluation(config.work / "seed-0")["predictions"]
    drawn = [sets[name] for name in asked["id"].slice(0, found["n"]).to_pylist()]
    assert len(drawn) == 6, "of five wanted: a set that is begun is asked whole"
    assert {drawn.count(name) for name in drawn} == {config.contrast.rows}
    given = str(data.text_path())
    assert portable({given: [given]}, config.work) == {"text.jsonl.gz": ["text.jsonl.gz"]}
    for path in config.keep.iterdir():
        assert str(tmp_path) not in path.read_text(), path.name
