"""The released code's rules on worked cases, each where they and ours part."""

import numpy as np
import pytest
import sklearn.metrics

from selfx.evaluation.answers.metrics import exact_match, score
from selfx.evaluation.answers.released import RELEASED, score_released

GOLD = "The most likely output would change to <<<Paris>>>."
STAYS = "The output would remain unchanged from <<<Paris>>>."

CASES = [
    # answer, released: (verdict, content, exact), ours: exact
    (GOLD, (1, True, True), True),
    (GOLD.upper() + " ", (1, True, True), True),
    (GOLD.removesuffix("."), (1, True, True), True),
    (GOLD + "..", (1, True, True), True),
    # An obedient answer in the grammar of the zero-shot prompt: content right, never exact.
    ("The output would change to <<<Paris>>>.", (1, True, False), True),
    ("The most likely output would change to <<< Paris >>>", (1, True, False), True),
    ("The most likely output would change to <<<Paris.>>>", (1, False, False), True),
    ("Well: " + GOLD, (1, True, False), True),
    ("The most likely output would change to <<Paris>>", (-1, False, False), True),
    ("The most likely output would change to<<<Paris>>>", (-1, False, False), True),
    ("The most likely output would change to <<<Rome>>>.", (1, False, False), False),
    (STAYS, (0, True, False), False),
    ("Paris", (-1, False, False), False),
    # Of two answers in a line the last counts; ours takes the first.
    ("It would change to <<<Rome>>>, no: change to <<<Paris>>>", (1, True, False), False),
    # "unchanged" is looked for first, wherever it stands.
    (f"{GOLD} {STAYS}", (0, True, False), True),
    # A content may be of several lines, its verdict not.
    ("change to <<<Par\nis>>>", (1, False, False), False),
]


@pytest.mark.parametrize(("answer", "expected", "ours"), CASES)
def test_worked_cases(example, answer, expected, ours):
    examples = [example(0, True, "Paris")]
    found = score_released(examples, [answer])
    assert (found.pred_changed[0], found.content_equal[0], found.exact[0]) == expected
    assert found.parsed[0] == (expected[0] >= 0)
    assert bool(score(examples, [answer]).exact[0]) is ours


def test_a_content_ends_at_the_first_three_brackets(example):
    examples = [example(0, False, "a > b")]
    answers = ["The output would remain unchanged from <<<a > b>>>>."]
    found = score_released(examples, answers)
    assert found.content_equal[0]
    assert not found.exact[0]


def test_scores_over_many_answers(example, word):
    """Exact and content over all answers, F1 over those that could be read."""
    rng = np.random.default_rng(0)
    examples = [example(i, bool(rng.random() < 0.6), f"w{i % 3}") for i in range(200)]
    said = [
        word(bool(rng.random() < 0.5), f"w{rng.integers(3)}") if rng.random() < 0.8 else "no idea"
        for _ in examples
    ]
    found = score_released(examples, said)
    gold = np.array([e.changed for e in examples]).astype(int)
    verdict = np.array([-1 if s == "no idea" else int("change to" in s) for s in said])
    right = np.array([s == e.answer for e, s in zip(examples, said, strict=True)])
    kept = verdict >= 0
    assert RELEASED["exact_match"](found) == exact_match(found) == pytest.approx(right.mean())
    assert RELEASED["has_changed_f1"](found) == pytest.approx(
        sklearn.metrics.f1_score(gold[kept], verdict[kept], average="macro")
    )
    assert RELEASED["parsed"](found) == pytest.approx(kept.mean())


def test_a_class_that_never_occurs_counts_as_nought(example, word):
    """Two F1s of which one is not defined: the released code takes it for 0, we leave it out."""
    examples = [example(i, True, "x") for i in range(4)]
    found = score_released(examples, [word(True, "x")] * 4)
    assert RELEASED["has_changed_f1"](found) == 0.5
