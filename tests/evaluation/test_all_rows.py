"""An evaluation with everything it is compared with, and an explainer that learned blindly."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import VERDICTS, WORDS
from selfx.evaluation.baselines.few_shot import with_shots
from selfx.evaluation.controls import WITHOUT_VECTOR, changed
from selfx.evaluation.other_model import other_model
from selfx.evaluation.run import Evaluation, evaluate
from selfx.explainer.answer import load_explainer, own_vectors, untrained
from selfx.explainer.injection import INJECTIONS, Way, inject
from selfx.explainer.likelihood import log_probabilities
from selfx.explainer.lora import Lora
from selfx.explainer.run import Run
from selfx.explainer.trained import Trained
from selfx.explainer.training import Training
from selfx.tasks import reading
from selfx.tasks.example import SLOT
from selfx.tasks.store import load_examples, load_trace
from selfx.tasks.trace import trace

PLAIN = Training(style="plain", rank=2, alpha=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_lm):
    """A trace of activation reading: its texts and places are on record."""
    folder = tmp_path_factory.mktemp("reading")
    rng, words = np.random.default_rng(0), ["war", "the", "Anna", "of", "ran", "sea", "a", "tree"]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 30))}) for _ in range(12)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    options = {"length": 24, "shown": 3, "most": 1.0, "batch_size": 16, "ask": "place"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "TEXTS_A_BLOCK", 12)
        out, text = folder / "trace", folder / "text.jsonl"
        trace("activation-reading", tiny_lm, out, data=text, limit=16, **options)
    return out


@pytest.fixture(scope="module")
def blind(tiny_lm, tmp_path_factory):
    """The folder of a run without vectors, its adapters drawn: no step is compiled for it."""
    training = dataclasses.replace(PLAIN, blind=True)
    run = Run(tmp_path_factory.mktemp("runs") / "blind")
    record = {"explainer": tiny_lm.name, "explainer_hash": tiny_lm.hash, "quantize": ""}
    shape = {"origin": {"width": 32, "layers": 4}, "traces": []}
    run.open(record | shape | {"training": dataclasses.asdict(training)}, fresh=False)
    shapes = {"q": ((4, 32, 2), (4, 2, 32)), "down": ((4, 64, 2), (4, 2, 32))}
    rng = np.random.default_rng(7)
    drawn = {
        name: Lora(*(jnp.asarray(rng.standard_normal(s), jnp.float32) / 4 for s in pair), 1.0)
        for name, pair in shapes.items()
    }
    run.save_result(Trained(lora=drawn), None, training, tiny_lm)
    return run.path


@pytest.fixture(scope="module")
def seeing(tiny_lm):
    return dataclasses.replace(untrained(tiny_lm, PLAIN), name="seeing")


@pytest.fixture(scope="module")
def done(seeing, blind, data, tiny_folder, tmp_path_factory):
    """The folder and the scores of an evaluation by default, with all that must be named."""
    out = tmp_path_factory.mktemp("scores") / "scores"
    settings = Evaluation(
        max_new_tokens=2,
        batch_size=4,
        text_only=str(blind),
        other_vectors=str(tiny_folder),
    )
    return out, evaluate(seeing, data, out, settings)


def test_every_control_that_changes_a_question_is_a_row_and_every_baseline(done):
    names = [(row["explainer"], row["control"]) for row in done[1]["rows"]]
    controls = ("none", "zero", "shuffled", "rotated", "no-vector", "no-text", "no-layer")
    assert names == [
        *[("seeing", each) for each in (*controls, "text-only", "other-model")],
        *[(name, "none") for name in WORDS.baselines],
    ]


def test_the_lift_is_over_the_best_without_the_vector(done):
    scores = done[1]
    values = {
        row["control"]: row["metrics"]["exact_match"]["value"]
        for row in scores["rows"]
        if row["explainer"] == scores["lift"]["explainer"]
    }
    best = scores["lift"]["control"]
    assert best in WITHOUT_VECTOR
    assert values[best] == max(values[name] for name in WITHOUT_VECTOR)


def test_the_targets_own_copy_gives_the_very_vectors(done, data, tiny_lm):
    """So the same answers; the one that reads a model of other weights is given others."""
    rows = pq.read_table(done[0] / "predictions.parquet").to_pylist()
    said = {
        c: [r["prediction"] for r in rows if r["control"] == c] for c in ("none", "other-model")
    }
    assert said["other-model"] == said["none"][: len(said["other-model"])]
    test, record = load_examples(data, "test"), load_trace(data)
    given = other_model(tiny_lm, tiny_lm, record, layers=4, width=32)(test, batch_size=4)
    for new, old in zip(given, test, strict=True):
        np.testing.assert_allclose(new.vectors, old.vectors, atol=1e-5)


def test_a_model_of_another_width_is_brought_to_the_targets(data, tiny_lm, write_tiny):
    other = selfx.load(write_tiny(seed=5, d_model=48, n_layers=2))
    test, record = load_examples(data, "test"), load_trace(data)
    given = other_model(other, tiny_lm, record, layers=4, width=32, seed=1)(test, batch_size=4)
    vectors = own_vectors(given, 32)
    assert vectors.shape == own_vectors(test, 32).shape
    assert len({row.tobytes() for row in vectors}) > 1
    with pytest.raises(SelfxError, match="for a trace of"):
        other_model(other, other, record, layers=4, width=32)


def test_a_patch_is_built_from_its_parts(data, tiny_lm):
    """Half of one place and half of another, the mean over the layers that it writes to."""
    ids = ([5, 9, 11, 12], [7, 8, 30, 31])
    parts = [
        {"ids": ids[0], "position": 2, "weight": 0.5},
        {"ids": ids[1], "position": 1, "weight": -1.0},
    ]
    example = dataclasses.replace(
        load_examples(data, "test")[0],
        task="activation-patching",
        details={"layer": [1, 2], "parts": parts},
    )
    (given,) = other_model(tiny_lm, tiny_lm, load_trace(data), layers=4, width=32)([example])
    run = jax.jit(selfx.forward, static_argnames="capture")
    seen = run(tiny_lm.model, np.array(ids), capture=("resid_post",)).captures["resid_post"]
    means = np.asarray(seen)[1:3].mean(axis=0)
    np.testing.assert_allclose(given.vectors[0], 0.5 * means[0, 2] - means[1, 1], atol=1e-5)
    with pytest.raises(SelfxError, match="a text on record"):
        other_model(tiny_lm, tiny_lm, load_trace(data), layers=4, width=32)(
            [dataclasses.replace(example, details={"layer": [1, 2]})]
        )


def test_one_trained_blindly_answers_alike_whatever_it_is_given(blind, data, tiny_lm):
    """To the bit; the same weights with open eyes do not."""
    test = load_examples(data, "test")
    blind = load_explainer(blind, tiny_lm)
    eyes = dataclasses.replace(blind, training=dataclasses.replace(blind.training, blind=False))
    texts = [example.answer for example in test]
    vectors = own_vectors(test, 32)
    for explainer, alike in [(blind, True), (eyes, False)]:
        one, other = (
            log_probabilities(explainer, test, texts, v)[0] for v in (vectors, -3 * vectors)
        )
        assert (one == other).all() == alike


@pytest.mark.parametrize("injection", INJECTIONS)
def test_what_enters_a_blind_explainer_is_what_zeros_would(injection, tiny):
    """In training as in asking: both go through `inject`."""
    vectors = np.random.default_rng(0).standard_normal((2, 1, 32)).astype(np.float32)
    place = np.array([[3], [4]]), np.array([[1], [2]])
    ways = [Way(injection, blind=True), Way(injection)]
    blind, zeros = (
        inject(way, tiny, None, given, *place)
        for way, given in zip(ways, (vectors, 0 * vectors), strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, blind, zeros)
    assert Training(injection=injection, blind=True).way == ways[0]


def test_one_that_sees_is_no_text_only_explainer(seeing, blind, data, tmp_path):
    sighted = shutil.copytree(blind, tmp_path / "sighted") / "config.json"
    sighted.write_text(sighted.read_text().replace('"blind": true', '"blind": false'))
    with pytest.raises(SelfxError, match="explainer of the text alone") as caught:
        evaluate(seeing, data, tmp_path / "out", Evaluation(text_only=str(sighted.parent)))
    assert "--blind" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_none_changes_nothing_and_a_control_changes_its_part_alone(data):
    test = load_examples(data, "test")
    for new, old in zip(changed("none", test), test, strict=True):
        assert new.questions == old.questions
        assert (new.vectors == old.vectors).all()
    assert changed("no-hint", test) is None
    for name in ("zero", "shuffled", "rotated"):
        for new, old in zip(changed(name, test, seed=3), test, strict=True):
            assert new.questions == old.questions
            assert new.vectors.shape == old.vectors.shape
            assert (new.vectors != old.vectors).any()
    for new, old in zip(changed("no-layer", test), test, strict=True):
        assert (new.vectors == old.vectors).all()


def test_shots_come_from_the_cell_with_their_vectors_in_order(planted):
    train, test = planted(40), planted(6, split="test")
    asked = with_shots(train, test, 3, seed=1)
    by_vector = {example.vector.tobytes(): example for example in train}
    for new, old in zip(asked, test, strict=True):
        shots = [by_vector[vector.tobytes()] for vector in new.vectors[:3]]
        assert {shot.cell for shot in shots} == {old.cell}
        assert len({shot.id for shot in shots}) == 3
        assert new.question == "\n\n".join([*(f"{SLOT}?\n{s.answer}" for s in shots), f"{SLOT}?"])
        assert (new.vectors[3] == old.vector).all()
        assert len(new.layers) == len(new.vectors) == 4
        assert (new.answer, new.id) == (old.answer, old.id)
    again = with_shots(train, test, 3, seed=1)
    assert [one.question for one in again] == [one.question for one in asked]


def test_without_vectors_those_that_read_them_do_not_fit():
    assert not {"probe", "selfie", "nearest-vector"} & set(VERDICTS.fitting(None, ("score",)))
    with pytest.raises(SelfxError, match="have no vector"):
        VERDICTS.fitting(("probe",), ())
    with pytest.raises(SelfxError, match="have no score"):
        VERDICTS.fitting(("shifted-scores",), ("vector",))
