import numpy as np
import pytest
import sklearn.metrics

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import (
    METRICS,
    Outcomes,
    content_match,
    exact_match,
    has_changed_f1,
    has_changed_f1_released,
    parsed,
    score,
)


def outcomes(gold, pred, equal=None, group=None):
    gold, pred = np.array(gold, bool), np.array(pred, np.int8)
    equal = np.ones(len(gold), bool) if equal is None else np.array(equal, bool)
    equal = equal & (pred >= 0)
    return Outcomes(gold, pred, equal, equal & (pred == gold), pred >= 0, group)


def random_outcomes(seed, n=200):
    rng = np.random.default_rng(seed)
    gold, pred = rng.random(n) < 0.6, rng.integers(-1, 2, n)
    return outcomes(gold, pred, rng.random(n) < 0.5)


def test_scores_answers_against_examples(example, word):
    examples = [example(i, i % 2 == 0, "Paris") for i in range(6)]
    answers = [
        word(True, " paris."),  # exact, but for what is normalised away
        word(True, "Paris"),  # wrong verdict, right content
        word(True, "Rome"),  # right verdict, wrong content
        word(False, "Paris"),  # exact
        "Paris",  # unparsable
        word(True, "Rome"),  # both wrong
    ]
    result = score(examples, answers)
    assert result.gold_changed.tolist() == [True, False, True, False, True, False]
    assert result.pred_changed.tolist() == [1, 1, 1, 0, -1, 1]
    assert result.content_equal.tolist() == [True, True, False, True, False, False]
    assert result.exact.tolist() == [True, False, False, True, False, False]
    assert result.parsed.tolist() == [True, True, True, True, False, True]
    assert result.group.tolist() == [f"g{i}" for i in range(6)]
    assert exact_match(result) == pytest.approx(2 / 6)
    assert content_match(result) == pytest.approx(3 / 6)
    assert parsed(result) == pytest.approx(5 / 6)
    # changed: 2 hits of 3 true and 4 predicted; unchanged: 1 hit of 3 true and 1 predicted.
    assert has_changed_f1(result) == pytest.approx((4 / 7 + 2 / 4) / 2)
    assert has_changed_f1_released(result) == pytest.approx((4 / 6 + 2 / 4) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    result = random_outcomes(seed)
    gold, pred, kept = result.gold_changed.astype(int), result.pred_changed, result.parsed
    expected = sklearn.metrics.f1_score(gold, pred, labels=[0, 1], average="macro")
    released = sklearn.metrics.f1_score(gold[kept], pred[kept], average="macro")
    assert has_changed_f1(result) == pytest.approx(expected)
    assert has_changed_f1_released(result) == pytest.approx(released)
    assert has_changed_f1(result) < has_changed_f1_released(result)
    assert parsed(result) == pytest.approx(kept.mean())


@pytest.mark.parametrize("name", [*METRICS, "released"])
def test_weights_count_rows(name):
    metric = METRICS.get(name, has_changed_f1_released)
    result = random_outcomes(0, n=50)
    weights = np.random.default_rng(1).integers(0, 4, size=(7, 50)).astype(float)
    many = metric(result, weights)
    assert many.shape == (7,)
    for value, counts in zip(many, weights, strict=True):
        rows = np.repeat(np.arange(50), counts.astype(int))
        repeated = outcomes(
            result.gold_changed[rows], result.pred_changed[rows], result.content_equal[rows]
        )
        assert value == pytest.approx(metric(repeated))
        assert metric(result, counts) == pytest.approx(value)


@pytest.mark.parametrize(
    ("gold", "pred", "expected"),
    [
        ([1, 1], [1, 1], 1.0),  # unchanged is neither true nor predicted: left out
        ([1, 1], [1, 0], (2 / 3 + 0) / 2),  # unchanged is only predicted: 0
        ([1, 0], [1, 1], (2 / 3 + 0) / 2),  # unchanged is only true: 0
        ([1, 0], [-1, -1], 0.0),
        ([1, 1], [-1, -1], 0.0),
        ([1, 0], [1, -1], (1 + 0) / 2),  # the unparsable one is not a false "changed"
    ],
)
def test_f1_where_a_class_is_absent(gold, pred, expected):
    assert has_changed_f1(outcomes(gold, pred)) == pytest.approx(expected)


def test_the_released_f1_drops_what_cannot_be_read():
    assert has_changed_f1_released(outcomes([1, 0, 0], [1, 0, -1])) == 1.0
    assert has_changed_f1(outcomes([1, 0, 0], [1, 0, -1])) == pytest.approx((1 + 2 / 3) / 2)
    assert has_changed_f1_released(outcomes([1, 0], [-1, -1])) == 0.0


def test_no_examples_have_no_score():
    empty = outcomes([], [])
    assert all(np.isnan(metric(empty)) for metric in METRICS.values())


def test_columns_and_answers_must_match_in_length(example):
    with pytest.raises(SelfxError, match="lengths"):
        Outcomes(*[np.zeros(n, bool) for n in (3, 3, 3, 3, 2)])
    with pytest.raises(SelfxError, match="1 answers to 2 examples"):
        score([example(0, True, "a"), example(1, True, "a")], ["x"])
