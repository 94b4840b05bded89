"""Contrast sets: the same question with other vectors and other outcomes."""

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.build import patch
from selfx.models.decoder import forward
from selfx.tasks.contrast_sets import Outcome, distinct
from selfx.tasks.store import load_examples, load_trace
from selfx.tasks.trace import trace

OPTIONS = {"rows": 3, "margin": 0.0, "chunks": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_lm, facts_file):
    folder = tmp_path_factory.mktemp("contrast") / "trace"
    trace("contrast-patching", tiny_lm, folder, data=facts_file, limit=60, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def examples(made):
    return load_examples(made, "train") + load_examples(made, "test")


def test_sets_are_whole_and_each_outcome_is_once_in_them(made, examples):
    """So whoever answers a question alike each time is right for one row of a set at most."""
    sets, asked = defaultdict(list), defaultdict(set)
    for example in examples:
        sets[example.details["set"]].append(example)
        asked[example.questions].add(example.details["set"])
    assert load_trace(made)["task"] == "activation-patching"
    assert len(sets) == len(examples) // OPTIONS["rows"] == 20
    for rows in sets.values():
        assert len({row.questions for row in rows}) == len({row.split for row in rows}) == 1
        assert len({row.answer for row in rows}) == len(rows) == OPTIONS["rows"]
        assert sum(not row.changed for row in rows) == 1
    by_question = defaultdict(Counter)
    for example in examples:
        by_question[example.questions][example.answer] += 1
    best = sum(max(counts.values()) for counts in by_question.values())
    assert best <= len(examples) / OPTIONS["rows"]


def test_outcomes_follow_from_the_recorded_parts(examples, tiny_lm):
    """Read again by plain runs of the model, mixed by the recorded weights, and written."""
    tried = [e for e in examples if len(e.details["parts"]) > 1][:4] + examples[:4]
    for example in tried:
        row, layers = example.details, np.array(example.details["layer"])
        vector = 0.0
        for part in row["parts"]:
            states = forward(
                tiny_lm.model, np.array([part["ids"]]), capture=("resid_post",)
            ).captures["resid_post"]
            mean = np.asarray(states, np.float64)[layers, 0, part["position"]].mean(0)
            vector = vector + part["weight"] * mean
        np.testing.assert_allclose(example.vectors[0], vector, rtol=1e-4, atol=1e-5)
        text, place = np.array([row["input_ids"]]), row["patch_position"]["orig_pos"]
        edit = patch("resid_post", example.vectors[0], layers=layers, positions=place)
        plain, patched = (
            int(forward(tiny_lm.model, text, edits=edits).logits[0, -1].argmax())
            for edits in ((), edit)
        )
        assert (plain, patched) == (row["original_id"], row["ablated_id"])


def test_test_subjects_and_texts_stay_among_themselves(examples):
    sides = defaultdict(set)
    for example in examples:
        sides[example.group].add(example.split)
        for part in example.details["parts"]:
            sides[part["text"]].add(example.split)
    assert {split for side in sides.values() for split in side} == {"train", "test"}
    assert all(len(side) == 1 for side in sides.values())


def test_a_second_run_makes_the_same(made, tiny_lm, facts_file, tmp_path):
    trace("contrast-patching", tiny_lm, tmp_path / "t", data=facts_file, limit=60, **OPTIONS)
    for split in ("train", "test"):
        one, other = load_examples(made, split), load_examples(tmp_path / "t", split)
        assert [e.id for e in one] == [e.id for e in other]
        assert all(np.array_equal(a.vectors, b.vectors) for a, b in zip(one, other, strict=True))


def test_what_is_taken_of_many_outcomes():
    same = Outcome(1, 1, (" a", " a"), 2.0)
    others = [Outcome(1, 2 + n % 3, (" a", f" {'bcd'[n % 3]}"), 2.0) for n in range(9)]
    unsure = dataclasses.replace(others[0], after=9, said=(" a", " e"), margin=0.1)
    silent = dataclasses.replace(others[0], after=8, said=(" a", "\n"))
    spaced = dataclasses.replace(same, after=7, said=(" a", "a"))
    rng = np.random.default_rng(0)
    tried = [*others, unsure, silent, same, spaced]
    for _ in range(20):
        taken = [tried[i] for i in distinct(tried, 4, 0.5, rng)]
        assert sorted({one.shown[1] for one in taken}) == ["a", "b", "c", "d"]
        assert len(taken) == 4
    assert distinct(tried, 5, 0.5, rng) == []
    assert len(distinct(tried, 5, 0.0, rng)) == 5
    assert distinct(others, 2, 0.5, rng) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("rows", 1, "at least 2"), ("chunks", 9, "1 to 4 layers"), ("margin", -1.0, "0 or more")],
)
def test_bad_settings(tiny_lm, facts_file, tmp_path, option, value, said):
    with pytest.raises(SelfxError) as caught:
        trace("contrast-patching", tiny_lm, tmp_path / "t", data=facts_file, **{option: value})
    assert said in caught.value.expected
    assert not (tmp_path / "t").exists()
