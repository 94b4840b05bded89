"""A sibling, self against cross, the behaviour change, a model from nothing: each once, tiny.

What they find of random models means nothing; that the parts fit, that what is trained ends where
it should, and that a second call does nothing again, does.
"""

import dataclasses
import json

import numpy as np
import pytest

import selfx
from experiments import behaviour_change, from_scratch, self_and_cross, siblings
from experiments.sibling_rows import fact_rows, material
from selfx.errors import SelfxError
from selfx.explainer.elsewhere import load_elsewhere
from selfx.explainer.run import Run
from selfx.tasks.facts import read_facts
from selfx.tasks.split import split_of
from selfx.tasks.store import load_examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments")


def inside(config, folder, name):
    return dataclasses.replace(config, work=folder / name, keep=folder / "results" / name)


@pytest.fixture(scope="module")
def sibling(folder):
    return inside(siblings.TINY, folder, "sibling")


@pytest.fixture(scope="module")
def made(sibling):
    return siblings.main(sibling)


def test_a_sibling_stops_at_the_stated_difference_and_is_a_model(made, sibling):
    look = made["sibling"]
    assert look["steps"] == 1  # of two: the goal was a hundredth
    assert look["reached"] == 1
    assert look["answers_differ"] >= 0.01
    original = selfx.load(siblings.placed(sibling).model)
    after = selfx.load(sibling.work / "model")
    assert (made["original"]["hash"], look["hash"]) == (original.hash, after.hash)
    # The folder is the original with what was trained, and the drift is of these two.
    pairs = [(m.model.blocks.q.w[...], m.model.embed[...]) for m in (original, after)]
    adapters = Run(sibling.work / "run").load_adapter(original.config)["q"]
    added = np.einsum("lir,lro->lio", adapters.a, adapters.b) * adapters.scale
    np.testing.assert_allclose(pairs[1][0] - pairs[0][0], added, atol=1e-6)
    np.testing.assert_array_equal(pairs[0][1], pairs[1][1])
    drift = made["differs"]["weights"]
    moved = np.linalg.norm(added) / np.linalg.norm(pairs[0][0])
    assert drift["blocks.q.w"] == pytest.approx(moved, rel=1e-3)
    assert drift["embed"] == 0
    assert siblings.main(sibling) == made
    with pytest.raises(SelfxError, match="behaviour: 'follow' there, 'right' now"):
        siblings.main(dataclasses.replace(sibling, behaviour="right"))


def test_what_is_measured_was_not_taught(sibling, made):
    config = siblings.placed(sibling)
    lm = selfx.load(config.model)
    held = material(lm, config.questions, config.facts, config.text, config.longest, 0)
    taught, asked = ({q.key for q, _ in pairs} for pairs in (held.taught, held.asked))
    assert taught
    assert asked
    assert not taught & asked
    assert {split_of(fact.subject, 0) for fact in held.told} == {"train"}
    assert {split_of(fact.subject, 0) for fact in held.said} == {"test"}
    true = {fact.subject: fact.attribute for fact in read_facts(config.facts)}
    attributes = set(true.values())
    for row in fact_rows(lm, held.told, 0):
        said = lm.tokenizer.decode(row.answer).strip()
        assert said in attributes
        assert said != true[row.id]


def test_self_and_cross_trains_every_cell_and_compares_on_each_target(sibling, made, folder):
    config = dataclasses.replace(
        inside(self_and_cross.TINY, folder, "self-and-cross"), sibling=sibling
    )
    found = self_and_cross.main(config)
    cells = {(cell["target"], cell["explainer"]): cell for cell in found["cells"]}
    both = ("original", "sibling")
    assert set(cells) == {(target, explainer) for target in both for explainer in both}
    assert all(cell["self"] == (names[0] == names[1]) for names, cell in cells.items())
    assert {(d["target"], d["other"]) for d in found["differences"]} == {both, both[::-1]}
    for target, explainer in cells:
        run = Run(config.work / config.task / f"{target}-by-{explainer}-0" / "run").record()
        hashes = {"original": made["original"]["hash"], "sibling": made["sibling"]["hash"]}
        assert run["explainer_hash"] == hashes[explainer]
        assert run["traces"][0]["target_hash"] == hashes[target]
    kept = json.loads((config.keep / f"{config.task}.json").read_text())
    assert kept["cells"] == json.loads(json.dumps(found["cells"]))
    assert str(folder) not in (config.keep / f"{config.task}.json").read_text()


def test_the_behaviour_change_asks_the_same_questions_of_all(sibling, made, folder):
    config = dataclasses.replace(
        inside(behaviour_change.TINY, folder, "behaviour-change"), sibling=sibling
    )
    found = behaviour_change.main(config)
    names = ["E on T", "E moved to T'", "T' on old answers", "T' on new answers"]
    assert list(found["explainers"])[:4] == names
    assert {each["exact"]["n"] for each in found["explainers"].values()} == {
        found["explainers"]["E on T"]["exact"]["n"]
    }
    # Nothing is balanced away: both models are asked every question, hinted alike.
    old, new = (load_examples(config.work / f"trace-{name}", "test") for name in ("old", "new"))
    assert {e.question for e in old} == {e.question for e in new}
    # The explainer that moves is the other model with what E learned on top.
    after, run = selfx.load(sibling.work / "model"), Run(config.work / "run-e")
    moved = load_elsewhere(run.path, after)
    adapters = run.load_adapter(after.config)["down"]
    added = np.einsum("lir,lro->lio", adapters.a, adapters.b) * adapters.scale
    weights = (m.blocks.down.w[...] for m in (moved.model, after.model))
    np.testing.assert_allclose(np.subtract(*weights), added, atol=1e-6)
    assert str(folder) not in (config.keep / "scores.json").read_text()


def test_a_model_from_nothing_learns_and_loads(folder):
    config = inside(from_scratch.TINY, folder, "from-scratch")
    found = from_scratch.main(config)
    assert found["held_out_loss"] < np.log(config.vocabulary) - 0.3
    lm = selfx.load(config.work / "run" / "model")
    assert lm.config.d_model == config.width != selfx.testing.TINY.d_model
    text = "Once there were 3 cats and 9 dogs."
    assert lm.tokenizer.decode(lm.tokenizer(text).input_ids) == text
