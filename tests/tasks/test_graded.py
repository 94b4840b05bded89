"""Shares of the answers that could have been true, from the scores that a trace keeps."""

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax

from selfx.errors import SelfxError
from selfx.explainer.fit import fit
from selfx.explainer.mixture import read_mixture
from selfx.explainer.training import Training
from selfx.tasks.graded import graded, keeps_scores
from selfx.tasks.store import load_examples, load_trace


@pytest.fixture(scope="module")
def examples(ablation_trace):
    return load_examples(ablation_trace[0], "train")


@pytest.fixture(scope="module")
def record(ablation_trace):
    return load_trace(ablation_trace[0])


def test_the_likeliest_answer_is_the_true_one_and_shares_follow_the_scores(examples, record):
    assert keeps_scores(examples)
    assert {example.changed for example in examples} == {True, False}
    for example in graded(examples, record, 0.7):
        texts, shares = zip(*example.likely, strict=True)
        assert texts[int(np.argmax(shares))] == example.answer
        scores = np.array(example.details["zeroshot_scores"]) - record["letter_offsets"]
        np.testing.assert_allclose(shares, softmax(scores / 0.7), rtol=1e-6)
        hinted = "ABCD".index(example.details["random_hint_prediction"])
        assert ["unchanged" in text for text in texts] == [n == hinted for n in range(4)]
        assert [f"Answer: {letter}>>>" in text for letter, text in zip("ABCD", texts, strict=True)]


def test_cold_shares_are_the_answer_alone(examples, record):
    for example in graded(examples, record, 1e-6):
        assert max(example.likely, key=lambda pair: pair[1]) == (example.answer, 1.0)


def test_scores_of_another_number_of_letters_are_named(examples, record):
    with pytest.raises(SelfxError, match="4 scores in example"):
        graded(examples, {**record, "letter_offsets": [0.0] * 5}, 1.0)


@pytest.mark.parametrize("name", ["zeroshot_scores", "random_hint_scores"])
def test_a_row_without_scores_is_seen(examples, name):
    some = examples[:3]
    lacking = dataclasses.replace(some[1], details={**some[1].details, name: None})
    assert keeps_scores(some)
    assert not keeps_scores([some[0], lacking, some[2]])


def test_training_takes_shares_and_says_so(ablation_trace, tiny_lm, tmp_path):
    few = Training(epochs=0.2, batch_size=4, rank=2, targets=("q",), held_out=0.0, style="plain")
    losses = {}
    for soften in (0.0, 1e-6, 0.7):
        out = tmp_path / str(soften)
        losses[soften] = fit(
            tiny_lm, [ablation_trace[0]], out, Training(**{**vars(few), "soften": soften})
        ).loss
        assert f'"soften": {soften}' in (out / "config.json").read_text()
    assert losses[0.0] == pytest.approx(losses[1e-6], rel=1e-5)
    assert abs(losses[0.7] - losses[0.0]) > 1e-4


def test_a_trace_without_scores_cannot_be_softened(patching_trace, ablation_trace, tiny_lm):
    with pytest.raises(SelfxError, match="soften") as error:
        read_mixture([patching_trace[0]], (), tiny_lm.config, 0.5)
    assert "input-ablation" in error.value.expected
    both = read_mixture([patching_trace[0], ablation_trace[0]], (), tiny_lm.config, 0.5)
    assert {bool(example.likely) for example in both.examples} == {True, False}
    assert all(bool(e.likely) == (e.task == "input-ablation") for e in both.examples)
