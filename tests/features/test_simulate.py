"""Simulators and scores: true descriptions beat shuffled ones; signs and halves are honest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, roc_auc_score

import selfx
from selfx.errors import SelfxError
from selfx.features.descriptions.describe import describe
from selfx.features.descriptions.promoted import named, promoted_tokens
from selfx.features.exemplars.corpus import windows
from selfx.features.exemplars.directions import Features, along
from selfx.features.exemplars.excerpts import Evidence, Excerpt, Pieces, evidence_of, halves
from selfx.features.exemplars.mine import Search, mine
from selfx.features.scores.generation import peaks_on, score_generation, write
from selfx.features.scores.score import (
    pearson,
    ranked,
    score_detection,
    score_fuzzing,
    score_simulation,
)
from selfx.features.scores.simulate import MOVED, ModelSimulator, simulate

MEMBERS = {
    "digits": "0123456789",
    "vowels": "aeiou",
    "capitals": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "ends": ".!?",
    "spaces": " ",
    "z": "z",
    "dashes": "-",
}


@pytest.fixture(scope="module")
def corpus(tiny_lm):
    rng = np.random.default_rng(0)
    words = ["Zebra", "7", "19", "a", "cat", "maze", "Oslo", "re-do", "sun", "yes.", "no!", "Kim"]
    texts = [" ".join(rng.choice(words, 24)) for _ in range(60)]
    return windows(tiny_lm.tokenizer, texts, context=12)


@pytest.fixture(scope="module")
def planted(tiny_lm, corpus):
    """Features of the embedding, one a class of bytes; of the bytes met, 1 for members, else 0."""
    vocabulary = tiny_lm.tokenizer.get_vocab()
    embed = np.asarray(tiny_lm.model.embed[...])
    targets = np.zeros((len(embed), len(MEMBERS)))
    for column, letters in enumerate(MEMBERS.values()):
        ids = [vocabulary["Ġ" if letter == " " else letter] for letter in letters]
        targets[ids, column] = 1
    kept = corpus.tokens, corpus.lengths
    used = np.unique(np.concatenate([r[:n] for r, n in zip(*kept, strict=True)]))
    fitted = np.linalg.lstsq(np.c_[embed[used], np.ones(len(used))], targets[used], rcond=None)[0]
    return Features(
        jnp.asarray(fitted[:-1].T, jnp.float32),
        jnp.asarray(fitted[-1] - 0.35, jnp.float32),
        site="resid_pre",
        layer=0,
    )


@pytest.fixture(scope="module")
def evidence(tiny_lm, planted, corpus):
    found = mine(tiny_lm, planted, corpus, search=Search(16, 16, 16))
    pieces = Pieces(tiny_lm.tokenizer)
    return [evidence_of(found, feature, pieces) for feature in range(len(found))]


@pytest.fixture(scope="module")
def described(evidence):
    """Descriptions from one half of each feature's texts, and the other half to score them on."""
    first, second = zip(*map(halves, evidence), strict=True)
    return [describe(each).text for each in first], list(second)


def test_features_of_a_real_model_get_the_class_they_were_planted_with(described):
    texts = dict(zip(MEMBERS, described[0], strict=True))
    assert "digits" in texts["digits"]
    assert "capitalised words" in texts["capitals"]
    assert '"z"' in texts["z"]
    assert "dashes" in texts["dashes"] or '"-"' in texts["dashes"]
    assert "spaces" in texts["spaces"]


def bootstrap(values, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (2000, len(values))).mean(axis=1)
    return np.quantile(means, [0.025, 0.975])


def test_true_descriptions_score_above_shuffled_ones_with_separated_intervals(described):
    texts, held_out = described
    for score in (
        lambda d: [one.correlation for one in score_simulation(d, held_out, simulate)],
        lambda d: score_detection(d, held_out, simulate),
        lambda d: score_fuzzing(d, held_out, simulate),
    ):
        true = np.array(score(texts))
        known = ~np.isnan(true)  # of a feature that is on in every text nothing can be detected
        assert known.sum() >= 4
        others = [score(texts[n:] + texts[:n]) for n in range(1, len(texts))]
        shuffled = np.nan_to_num(np.array(others)[:, known])
        assert bootstrap(true[known])[0] > bootstrap(shuffled.ravel())[1]


def test_generated_texts_excite_the_feature_they_were_written_for(
    tiny_lm, planted, described, evidence
):
    texts, _ = described
    peaks = np.array([each.peak for each in evidence])
    kept = np.array([0, 2, 5, 6])  # classes that a plain sentence is free of
    some = dataclasses.replace(
        planted, directions=planted.directions[kept], bias=planted.bias[kept]
    )
    found = score_generation(tiny_lm, some, [texts[i] for i in kept], peaks[kept], count=4)
    assert min(one.ranked for one in found) > 0.5
    assert np.mean([one.fires for one in found]) > np.mean([one.elsewhere for one in found]) + 0.3
    assert [one.texts for one in found] == [4] * len(kept)


def test_the_writer_puts_in_what_is_described():
    (texts,) = write(['Fires strongly on digits after "$", "river".'], 4)
    assert len(texts) == 4
    assert sum("river" in text for text in texts) == 2
    assert any("$7" in text.replace(" ", "") for text in texts)
    assert write(["Was never on."], 3) == [[]]


def excerpt(acts, kind="top", skip=0, document=-1):
    acts = np.asarray(acts, np.float32)
    pieces = tuple(f" w{i}" for i in range(len(acts)))
    return Excerpt(pieces, acts, kind, skip, document, ids=tuple(range(len(acts))))


def given(*predictions):
    """A simulator with its answers given."""
    return lambda descriptions, texts: [[np.asarray(p, np.float32) for p in predictions]]


def test_simulation_scores_are_what_scipy_and_sklearn_compute():
    rng = np.random.default_rng(0)
    texts = [excerpt(rng.random(9), "top") for _ in range(4)]
    texts += [excerpt(rng.random(9) * (i % 2), "random") for i in range(4)]
    guesses = [5 * text.activations + rng.random(9) for text in texts]
    (got,) = score_simulation([""], [Evidence(0, tuple(texts))], given(*guesses))

    def joined(where):
        parts = [(t.activations, g) for t, g in zip(texts, guesses, strict=True) if where(t)]
        return (np.concatenate(side) for side in zip(*parts, strict=True))

    for value, where in (
        (got.correlation, lambda text: True),
        (got.top, lambda text: text.kind == "top"),
        (got.random, lambda text: text.kind == "random"),
    ):
        assert value == pytest.approx(stats.pearsonr(*joined(where)).statistic, abs=1e-6)
    true, guess = joined(lambda text: True)
    peak = max(text.peak for text in texts)
    assert got.explained == pytest.approx(r2_score(true, guess * peak / 10), abs=1e-5)
    calibrated = np.zeros_like(true)
    half = np.repeat(np.arange(len(texts)) % 2, 9)
    for side in (0, 1):
        line = LinearRegression().fit(guess[half != side, None], true[half != side])
        calibrated[half == side] = line.predict(guess[half == side, None])
    assert got.calibrated == pytest.approx(r2_score(true, calibrated), abs=1e-5)
    assert got.tokens == 72


def test_a_description_that_says_the_opposite_scores_well_only_by_the_papers_figure():
    texts = tuple(
        excerpt(acts) for acts in ([0, 5, 0, 1], [4, 0, 0, 0], [0, 0, 3, 0], [2, 0, 1, 0])
    )
    upside_down = given(*(10 - 2 * text.activations for text in texts))
    (got,) = score_simulation([""], [Evidence(0, texts)], upside_down)
    assert got.correlation == pytest.approx(-1)
    assert got.paper == pytest.approx(1)
    assert got.calibrated < 0.05, "calibration may not turn a prediction over"


def test_a_constant_prediction_has_no_correlation_and_0_by_the_papers_figure():
    (got,) = score_simulation([""], [Evidence(0, (excerpt([0, 1, 2]),))], given([3, 3, 3]))
    assert np.isnan(got.correlation)
    assert got.paper == 0


def test_tokens_that_do_not_count_are_left_out():
    texts = (excerpt([0, 1, 2, 3], skip=1),)
    (got,) = score_simulation([""], [Evidence(0, texts)], given([99, 1, 2, 3]))
    assert got.correlation == pytest.approx(1)
    assert got.tokens == 3


def test_detection_and_fuzzing_are_areas_under_the_roc_curve():
    rng = np.random.default_rng(0)
    labels, levels = rng.random(40) < 0.4, rng.integers(0, 5, 40).astype(float)
    assert ranked(labels, levels) == pytest.approx(roc_auc_score(labels, levels))
    assert np.isnan(ranked(np.ones(3, bool), np.ones(3)))
    texts = (excerpt([0, 3]), excerpt([4, 0]), excerpt([0, 0], "random"), excerpt([1, 0], "random"))
    (got,) = score_detection([""], [Evidence(0, texts)], given([0, 5], [1, 0], [3, 0]))
    assert got == 0.5, "a random text that excites the feature is no negative"
    (got,) = score_fuzzing([""], [Evidence(0, texts[:2])], given([0, 5], [1, 0]))
    assert got == 1.0


def test_pearson_needs_something_that_varies():
    assert np.isnan(pearson(np.zeros(3), np.arange(3.0)))
    assert np.isnan(pearson(np.zeros(1), np.zeros(1)))


@pytest.fixture(scope="module")
def two():
    """Two descriptions with texts of different lengths, in tokens of the tiny tokenizer."""
    rng = np.random.default_rng(0)
    sizes = ((5, 17), (9,))
    made = [
        [dataclasses.replace(excerpt(np.zeros(n)), ids=tuple(rng.integers(6, 90, n).tolist()))
         for n in some]
        for some in sizes
    ]  # fmt: skip
    return ["red things", "the number seven, spelled out"], made


def test_the_models_expectation_is_read_at_every_token_of_the_text(tiny_lm, two):
    descriptions, texts = two
    question = "## Neuron Description: {}\n\n ## Input: "
    found = ModelSimulator(tiny_lm, batch_size=2)(descriptions, texts)
    assert [[len(p) for p in some] for some in found] == [[5, 17], [9]]
    tokens, before = np.zeros((3, 96), np.int32), []
    pairs = [(d, text) for d, some in zip(descriptions, texts, strict=True) for text in some]
    for row, (description, text) in zip(tokens, pairs, strict=True):
        question_ids = tiny_lm.tokenizer(question.format(description)).input_ids
        row[: len(question_ids) + len(text.ids)] = [*question_ids, *text.ids]
        before.append(len(question_ids))
    logits = np.asarray(selfx.forward(tiny_lm.model, tokens).logits, np.float64)
    for row, start, got in zip(logits, before, [p for some in found for p in some], strict=True):
        exps = np.exp(row[start : start + len(got), :11])
        wanted = (exps / exps.sum(axis=1, keepdims=True)) @ np.arange(11)
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_special_tokens_in_the_text_are_given_as_the_simulator_knows_them(tiny_lm, two):
    _, texts = two
    swapped = dataclasses.replace(texts[1][0], ids=tuple(128000 for _ in texts[1][0].ids))
    simulator = ModelSimulator(tiny_lm)
    ids, size = simulator._row("x", swapped)
    assert ids[-size:] == [MOVED[128000]] * size


def test_a_text_without_ids_or_too_long_is_refused(tiny_lm, two):
    descriptions, texts = two
    simulator = ModelSimulator(tiny_lm, batch_size=1)
    bare = [[dataclasses.replace(texts[1][0], ids=None)]]
    with pytest.raises(SelfxError, match="only the words are known"):
        simulator(descriptions[:1], bare)
    with pytest.raises(SelfxError, match="tokens to simulate"):
        simulator(["x" * 600], texts[1:])
    with pytest.raises(SelfxError, match="2 descriptions and texts of 1"):
        simulate(descriptions, texts[:1])


def test_promoted_tokens_are_those_whose_logits_rise_most(tiny_lm):
    model = tiny_lm.model
    outputs = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    high, low = promoted_tokens(model, outputs, k=5)
    gain = np.asarray(model.final_norm.w[...], np.float64)
    unit = outputs / np.sqrt((outputs.astype(np.float64) ** 2).mean(axis=1, keepdims=True))
    logits = (unit * gain) @ np.asarray(model.unembed.w[...], np.float64)
    np.testing.assert_array_equal(high, np.argsort(-logits, axis=1)[:, :5])
    np.testing.assert_array_equal(low, np.argsort(logits, axis=1)[:, :5])
    with pytest.raises(SelfxError, match="output directions"):
        promoted_tokens(model, outputs[:, :8])


def test_only_tokens_that_can_be_quoted_are_named():
    assert named(Pieces(FakeTokenizer()), [0, 1, 2, 3, 4]) == ("cat", "dog")


class FakeTokenizer:
    texts = (" cat", '"', "\ufffd", "cat", " dog")

    def convert_ids_to_tokens(self, index):
        return self.texts[index]

    def decode(self, ids):
        return self.texts[ids[0]]


def test_peaks_of_texts_do_not_depend_on_their_batch(tiny_lm):
    features = along(jax.random.normal(jax.random.key(0), (3, 32)), layer=1)
    texts = ["one", "two words", "", "something that is a good deal longer"]
    alone = [peaks_on(tiny_lm, features, [text], batch_size=1) for text in texts[:2]]
    together = peaks_on(tiny_lm, features, texts, batch_size=4)
    np.testing.assert_allclose(together[:2], np.concatenate(alone), atol=1e-4)
    assert (together[2] == 0).all()
