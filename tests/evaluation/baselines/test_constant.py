import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.metrics import exact_match, score
from selfx.evaluation.baselines.constant import BASELINES, get_baseline, majority, majority_per_cell


@pytest.fixture
def train(example):
    said = [
        (False, "FIFA", "a"),
        (False, "fifa.", "a"),
        (False, "FIFA ", "b"),
        (True, "Rome", "a"),
        (True, "Rome", "b"),
        (True, "Oslo", "b"),
        (True, "Lima", "b"),
    ]
    return [
        example(i, changed, content, cell=cell) for i, (changed, content, cell) in enumerate(said)
    ]


def test_majority_is_the_best_constant_not_the_majority_verdict(example, train, word):
    test = [example(9, True, "Rome"), example(10, False, "FIFA")]
    assert majority(train, test) == [word(False, "FIFA")] * 2
    assert majority(train, test, by="verdict") == [word(True, "Rome")] * 2


def test_no_other_constant_scores_higher_on_the_train_split(train):
    best = exact_match(score(train, majority(train, train)))
    others = [exact_match(score(train, [one.answer] * len(train))) for one in train]
    assert best == max(others) == pytest.approx(3 / 7)


def test_majority_per_cell_falls_back_to_the_whole_split(example, train, word):
    test = [example(i, True, "x", cell=cell) for i, cell in enumerate("abz")]
    assert majority_per_cell(train, test) == [
        word(False, "FIFA"),
        word(False, "FIFA "),  # a tie of four in cell b: the first seen
        word(False, "FIFA"),
    ]
    assert majority_per_cell(train, test, by="verdict") == [
        word(False, "FIFA"),
        word(True, "Rome"),
        word(True, "Rome"),
    ]


def test_an_empty_train_split_raises(example):
    for baseline in BASELINES.values():
        with pytest.raises(SelfxError, match="empty train split"):
            baseline([], [example(0, True, "x")])
        assert baseline([example(0, True, "x")], []) == []


def test_names():
    assert get_baseline("majority-per-cell") is majority_per_cell
    with pytest.raises(SelfxError, match="majority, majority-per-cell"):
        get_baseline("nearest")
