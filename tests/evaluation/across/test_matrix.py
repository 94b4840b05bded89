"""The matrix of self and cross: scores, paired differences, seeds, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from selfx.errors import SelfxError
from selfx.evaluation.across.matrix import Entry, matrix
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.scores import write_evaluation
from selfx.tasks.example import Example
from selfx.tasks.wording import word


def questions(n=120, name="t"):
    return [
        Example(
            id=f"{name}-{i}",
            task="input-ablation",
            split="test",
            group=f"{i // 2}",
            cell="hint A",
            system="",
            questions=(f"question {i}",),
            answer=word(i % 2 == 0, f"Answer: {'ABCD'[i % 4]}"),
            changed=i % 2 == 0,
            content=f"Answer: {'ABCD'[i % 4]}",
            vectors=None,
            details={},
        )
        for i in range(n)
    ]


@pytest.fixture
def entry(tmp_path):
    """A function: the evaluation of an explainer that is right where it is told to be."""

    def write(target, explainer, right, seed=0, examples=None):
        examples = questions(len(right)) if examples is None else examples
        said = [e.answer if good else "" for e, good in zip(examples, right, strict=True)]
        folder = tmp_path / f"{target}-{explainer}-{seed}"
        write_evaluation(folder, examples, [Answered("run", "none", said)], target=target)
        return Entry(target, explainer, seed, folder)

    return write


def drawn(share, seed, n=120):
    return np.random.default_rng(seed).random(n) < share


def test_cells_are_the_share_that_is_right_and_differences_are_paired(entry):
    self_right, cross_right = drawn(0.7, 0), drawn(0.4, 1)
    found = matrix([entry("t", "t", self_right), entry("t", "u", cross_right)])
    values = [cell["metrics"]["exact_match"]["value"] for cell in found["cells"]]
    assert values == pytest.approx([self_right.mean(), cross_right.mean()])
    (difference,) = found["differences"]
    gain = difference["metrics"]["exact_match"]
    assert gain["value"] == pytest.approx(self_right.mean() - cross_right.mean())
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    # An oracle of the width: the t interval of the clusters' means, all of one size.
    moved = (self_right.astype(float) - cross_right).reshape(-1, 2).mean(axis=1)
    error = moved.std(ddof=1) / np.sqrt(len(moved))
    reach = stats.t.ppf(0.975, len(moved) - 1) * error
    assert gain["high"] - gain["low"] == pytest.approx(2 * reach, rel=0.1)
    assert difference["smallest"]["exact_match"] == pytest.approx(
        (stats.t.ppf(0.975, 59) + stats.t.ppf(0.8, 59)) * error, rel=0.1
    )
    assert difference["test"]["p"] < 0.01


def test_an_explainer_that_answers_as_self_does_differs_by_nothing(entry):
    right = drawn(0.5, 2)
    (difference,) = matrix([entry("t", "t", right), entry("t", "u", right)])["differences"]
    assert difference["metrics"]["exact_match"] == {"value": 0, "low": 0, "high": 0}
    assert difference["test"]["p"] == 1
    assert difference["smallest"]["exact_match"] is None


def test_seeds_that_disagree_widen_the_interval_and_are_shown(entry):
    steady = [entry("t", "t", drawn(0.5, s), s) for s in range(3)]
    cross = [entry("t", "u", drawn(0.5, 10 + s), s) for s in range(3)]
    shaky = [entry("t", "v", drawn(share, 20 + s), s) for s, share in enumerate((0.1, 0.5, 0.9))]
    found = matrix([*steady, *cross, *shaky])
    widths = {}
    for difference in found["differences"]:
        gain = difference["metrics"]["exact_match"]
        widths[difference["other"]] = gain["high"] - gain["low"]
    assert widths["v"] > 2 * widths["u"]
    cell = next(cell for cell in found["cells"] if cell["explainer"] == "v")
    seeds = [drawn(share, 20 + s).mean() for s, share in enumerate((0.1, 0.5, 0.9))]
    assert list(cell["by_seed"].values()) == pytest.approx(seeds)
    assert cell["metrics"]["exact_match"]["value"] == pytest.approx(np.mean(seeds))


def test_a_target_without_its_own_explainer_has_no_difference(entry):
    found = matrix([entry("t", "u", drawn(0.5, 0)), entry("w", "w", drawn(0.5, 1))])
    assert found["differences"] == []
    assert [cell["self"] for cell in found["cells"]] == [False, True]


def test_other_questions_and_missing_seeds_are_refused(entry):
    right = drawn(0.5, 0)
    other = [dataclasses.replace(e, id=f"other {e.id}") for e in questions()]
    with pytest.raises(SelfxError, match="other questions of t"):
        matrix([entry("t", "t", right), entry("t", "u", right, examples=other)])
    two = [entry("t", "t", right), entry("t", "u", right), entry("t", "u", right, 1)]
    with pytest.raises(SelfxError, match="seeds of explainers of t"):
        matrix(two)
