"""What reads vectors or words without a language model: probes and nearest neighbours."""

import dataclasses
import re

import numpy as np
import pytest

from selfx.evaluation.baselines.nearest import nearest_by_text, nearest_in_cell
from selfx.evaluation.baselines.probe import (
    _features,
    _read_off,
    probe_verdicts,
    probe_words,
)
from selfx.ridge import STRENGTHS, fit_ridge
from selfx.tasks.published import ablation_example
from selfx.tasks.wording import HINT


def asked(examples, ask="here"):
    return [dataclasses.replace(example, details={"ask": ask}) for example in examples]


@pytest.mark.parametrize("shape", [(60, 8), (20, 30)])
def test_the_ridge_equals_scikit_learns_with_the_same_choice_of_strength(shape):
    from sklearn.linear_model import RidgeCV

    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape) * rng.uniform(0.1, 5, shape[1]) + 3
    wanted = features[:, :2] + rng.standard_normal((shape[0], 2))
    ours = fit_ridge(features, wanted)
    theirs = RidgeCV(STRENGTHS).fit(features, wanted)
    assert ours.strength == theirs.alpha_
    np.testing.assert_allclose(ours(features), theirs.predict(features), atol=1e-8)
    np.testing.assert_allclose(ours.weights, theirs.coef_.T, atol=1e-8)


def test_groups_are_left_out_whole_as_scikit_learn_leaves_them():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict, cross_val_score

    rng = np.random.default_rng(1)
    groups = [f"g{n}" for n in rng.integers(0, 15, 60)]
    shared = {group: rng.standard_normal(30) for group in groups}
    features = np.stack([shared[group] for group in groups]) + rng.standard_normal((60, 30)) / 9
    level = {group: rng.standard_normal(2) for group in groups}
    wanted = features[:, :2] + np.stack([level[group] for group in groups])
    errors = [
        -cross_val_score(
            Ridge(strength),
            features,
            wanted,
            groups=groups,
            cv=LeaveOneGroupOut(),
            scoring=lambda model, x, y: -((model.predict(x) - y) ** 2).sum(),
        ).sum()
        for strength in STRENGTHS
    ]
    ours = fit_ridge(features, wanted, groups)
    assert ours.strength == STRENGTHS[int(np.argmin(errors))]
    np.testing.assert_allclose(ours.error, min(errors))
    theirs = cross_val_predict(
        Ridge(ours.strength), features, wanted, groups=groups, cv=LeaveOneGroupOut()
    )
    np.testing.assert_allclose(ours.left_out, theirs, atol=1e-8)
    assert fit_ridge(features, wanted).strength < STRENGTHS[int(np.argmin(errors))]


def test_planted_verdicts_and_words_are_read_and_of_others_vectors_nothing(planted):
    """The vector names one of four classes; the even ones changed."""
    train, right = planted(160), {}
    for others in (False, True):
        test = planted(400, split="test", shuffled=others)
        verdicts = [said in ("red", "green") for said in probe_verdicts(train, test)]
        right[others, "verdict"] = np.mean(
            [s == e.changed for s, e in zip(verdicts, test, strict=True)]
        )
        for way, said in {
            "probe": probe_words(asked(train), asked(test)),
            "nearest": nearest_in_cell(train, test),
        }.items():
            right[others, way] = np.mean([s == e.answer for s, e in zip(said, test, strict=True)])
    for way, chance in {"verdict": 0.5, "probe": 0.25, "nearest": 0.25}.items():
        assert right[False, way] > 0.95
        assert abs(right[True, way] - chance) < 0.1


@pytest.mark.parametrize(("cells", "size", "shift"), [(4, 40, 9.0), (80, 1, 0.0)])
def test_a_probe_centres_in_each_cell_only_where_that_helps(planted, cells, size, shift):
    """Cells far apart hide what differs in them; of one a cell, centring leaves nothing."""
    rng = np.random.default_rng(0)
    away = shift * rng.standard_normal((cells, *planted(1)[0].vectors.shape))

    def placed(examples):
        return [
            dataclasses.replace(e, cell=f"c{n % cells}", vectors=e.vectors + away[n % cells])
            for n, e in enumerate(examples)
        ]

    train, test = placed(planted(cells * size)), placed(planted(200, split="test"))
    truth = np.array([1.0 if e.changed else -1.0 for e in train])[:, None]
    groups = [e.group for e in train]
    fits = {}
    for apart in (True, False):
        known, asked = _features(train, test, apart=apart)
        ridge = fit_ridge(known, truth, groups)
        fits[apart] = (ridge.error, ridge(asked))
    assert min(fits, key=lambda apart: fits[apart][0]) == (shift > 0)
    np.testing.assert_array_equal(_read_off(train, test, truth), fits[shift > 0][1])


def test_a_probe_says_the_commonest_content_of_its_verdict_in_the_cell(planted):
    train = [e for e in planted(160) if not (e.cell == "cell 1" and e.answer == "red")]
    test = [e for e in planted(80, split="test") if e.cell == "cell 1"]
    said = probe_verdicts(train, test)
    assert {s for s, e in zip(said, test, strict=True) if e.changed} == {"green"}


def test_kinds_of_questions_are_probed_apart_and_an_unknown_one_gets_nothing(planted):
    half = planted(80)
    other = [dataclasses.replace(e, answer=f"no {e.answer}") for e in half]
    test = asked(planted(20, split="test"), "next") + asked(planted(4, split="test"), "lens")
    said = probe_words(asked(half) + asked(other, "next"), test)
    assert np.mean([s == f"no {e.answer}" for s, e in zip(said[:20], test, strict=False)]) > 0.9
    assert said[20:] == [""] * 4


def test_a_cell_that_was_never_trained_on_is_answered_from_all(planted):
    train = planted(40)
    test = [dataclasses.replace(e, cell="new") for e in planted(20, split="test")]
    for said in (nearest_in_cell(train, test), probe_words(asked(train), asked(test))):
        assert np.mean([s == e.answer for s, e in zip(said, test, strict=True)]) > 0.9


def test_the_nearest_of_its_cell_by_brute_force(planted):
    train = [dataclasses.replace(e, answer=e.id) for e in planted(60)]
    test = planted(30, split="test")

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    wanted = [
        max(
            (other for other in train if other.cell == example.cell),
            key=lambda other: cosine(other.vector, example.vector),
        ).id
        for example in test
    ]
    assert nearest_in_cell(train, test) == wanted


def test_the_nearest_text_equals_scikit_learns_tf_idf(planted):
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(0)
    some = ["sea", "Tree", "of", "the", "war", "it's", "é"]

    def texts(examples):
        drawn = (" ".join(rng.choice(some, 6, p=[0.4, *[0.1] * 6])) for _ in examples)
        return [
            dataclasses.replace(e, questions=(text,))
            for e, text in zip(examples, drawn, strict=True)
        ]

    train, test = texts(planted(60)), texts(planted(30, split="test"))
    train = [dataclasses.replace(example, answer=example.id) for example in train]
    model = TfidfVectorizer(token_pattern=r"\w+").fit([e.question for e in train])
    said = nearest_by_text(train, test)
    by_id = {example.id: example for example in train}
    for example, name in zip(test, said, strict=True):
        rivals = [other for other in train if other.cell == example.cell]
        alike = (
            model.transform([e.question for e in rivals]) @ model.transform([example.question]).T
        )
        own = model.transform([by_id[name].question]) @ model.transform([example.question]).T
        assert by_id[name].cell == example.cell
        assert own.toarray()[0, 0] == pytest.approx(alike.toarray().max())


def test_a_text_without_a_known_word_is_answered_all_the_same(planted):
    train = planted(8)
    test = [dataclasses.replace(planted(1, split="test")[0], questions=("…",))]
    assert not re.findall(r"\w", test[0].question)
    assert nearest_by_text(train, test)[0] in {example.answer for example in train}


def test_where_scores_are_kept_all_vectors_are_read_for_them_and_the_answer_follows():
    """Each of two vectors holds two of the four letters' scores."""
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 8)))[0]

    def world(n, seed):
        rng = np.random.default_rng(seed)
        made = []
        for i in range(n):
            before, after = rng.standard_normal((2, 4))
            vectors = np.zeros((2, 8))
            vectors[0, :2], vectors[1, :2] = before[:2], before[2:]
            vectors[:, 2:] = rng.standard_normal((2, 6)) / 10 + 5
            said, then = ("ABCD"[int(s.argmax())] for s in (before, after))
            row = {
                "zeroshot_prediction": said,
                "random_hint_prediction": then,
                "system_prompt": "",
                "hint_user_prompt": f"{i}?" + HINT.format(letter="ABCD"[i % 4]),
                "zeroshot_scores": [*(20 + before)],
                "random_hint_scores": [*(20 + after)],
                "layers": [1, 2],
            }
            states = (vectors @ turn).astype(np.float32)
            made.append(ablation_example(row, "test", states, i))
        return made

    train, test = world(400, 0), world(200, 1)
    said = probe_verdicts(train, test)
    assert np.mean([s == e.answer for s, e in zip(said, test, strict=True)]) > 0.85
    last = [dataclasses.replace(e, vectors=e.vectors[1:]) for e in test]
    blurred = probe_verdicts([dataclasses.replace(e, vectors=e.vectors[1:]) for e in train], last)
    assert np.mean([s == e.answer for s, e in zip(blurred, test, strict=True)]) < 0.7
