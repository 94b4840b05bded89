"""New, old or neither: worked by hand."""

import dataclasses

import pytest

from selfx.errors import SelfxError
from selfx.evaluation.across.three_way import lean_difference, pair, three_way
from selfx.tasks.example import Example
from selfx.tasks.wording import word


def example(number, changed, letter, **more):
    return Example(
        id=f"{number}",
        task="input-ablation",
        split="test",
        group=f"{number}",
        cell="hint A",
        system="",
        questions=(f"question {number}",),
        answer=word(changed, f"Answer: {letter}"),
        changed=changed,
        content=f"Answer: {letter}",
        vectors=None,
        details={},
        **more,
    )


OLD = [example(0, False, "A"), example(1, False, "A"), example(2, True, "B"), example(3, True, "C")]
NEW = [example(0, True, "A"), example(1, False, "D"), example(2, False, "C"), example(3, True, "C")]
"""What differs: the verdict, the content, both, nothing."""


def said(examples):
    return [each.answer for each in examples]


def test_questions_are_paired_by_what_is_asked_not_by_name_or_place():
    named = [dataclasses.replace(each, id=f"old {each.id}") for each in reversed(OLD)]
    extra = example(9, True, "B")
    both = pair([*NEW, extra], named)
    assert [e.questions for e in both.new] == [e.questions for e in both.old]
    assert both.new == tuple(NEW)
    with pytest.raises(SelfxError, match="no question in common"):
        pair([extra], OLD)


def test_who_tells_the_new_and_who_tells_the_old():
    both = pair(NEW, OLD)
    new, old = three_way(both, said(NEW)), three_way(both, said(OLD))
    for part, count in {"exact": 3, "verdict": 2, "content": 2}.items():
        assert new[part]["n"] == count
        assert new[part]["new"]["value"] == 1
        assert new[part]["lean"]["value"] == 1
        assert old[part]["old"]["value"] == 1
        assert old[part]["lean"]["value"] == -1
        assert old[part]["new_of_told"]["value"] == 0
    assert new["alike"]["n"] == 1
    assert new["alike"]["right"]["value"] == 1


def test_mixed_answers_worked_by_hand():
    answers = [NEW[0].answer, "who knows", word(False, "Answer: B"), "who knows"]
    found = three_way(pair(NEW, OLD), answers)
    exact = {name: found["exact"][name]["value"] for name in ("new", "old", "neither", "lean")}
    assert exact == pytest.approx({"new": 1 / 3, "old": 0, "neither": 2 / 3, "lean": 1 / 3})
    # Row 2 has the new verdict and the old content.
    assert found["verdict"]["new"]["value"] == 1
    assert found["content"]["old"]["value"] == 0.5
    assert found["content"]["neither"]["value"] == 0.5
    assert found["alike"]["right"]["value"] == 0


def test_the_difference_between_two_explainers_is_paired():
    found = lean_difference(pair(NEW, OLD), said(NEW), said(OLD))
    assert found["new"]["value"] == 1
    assert found["old"]["value"] == -1
    assert found["lean"]["value"] == 2
    assert found["test"]["p"] == pytest.approx(
        2 / 2**3
    )  # all swaps of three clusters, two as large
    with pytest.raises(SelfxError, match="never differ"):
        lean_difference(pair(OLD, OLD), said(OLD), said(OLD))
