"""The shape of the packaged facts and questions, and that they are our own."""

from __future__ import annotations

import collections
import gzip
import json
import pathlib
from typing import Any

import pytest

from selfx import data

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
FACT_KEYS = ["known_id", "subject", "attribute", "template", "prompt", "relation_id"]
QUESTION_KEYS = ["subject", "question", "choices", "answer"]

Row = dict[str, Any]


def _rows(path: pathlib.Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _grouped(rows: list[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


@pytest.fixture(scope="module")
def facts() -> list[Row]:
    return _rows(data.facts_path())


@pytest.fixture(scope="module")
def questions() -> list[Row]:
    return _rows(data.questions_path())


def test_paths_are_files():
    for path in (data.facts_path(), data.questions_path(), data.text_path()):
        assert isinstance(path, pathlib.Path)
        assert path.is_file()


def test_the_text_is_many_different_ones_without_marks_of_a_chat():
    lines = gzip.decompress(data.text_path().read_bytes()).decode().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == len(set(texts)) == 160
    assert sum(map(len, texts)) > 140_000
    assert not any("<|im_" in text or "\x00" in text for text in texts)


def test_facts_layout_and_counts(facts: list[Row]):
    assert [list(row) for row in facts] == [FACT_KEYS] * len(facts)
    assert [row["known_id"] for row in facts] == list(range(len(facts)))
    relations = _grouped(facts, "relation_id")
    assert {name: len(rows) for name, rows in relations.items()} == dict.fromkeys(relations, 30)
    assert len(relations) == 14


def test_fact_prompts_fill_their_template(facts: list[Row]):
    for row in facts:
        assert row["template"].count("{}") == 1, row
        assert row["prompt"] == row["template"].replace("{}", row["subject"]), row
        assert row["prompt"].count(row["subject"]) == 1, row  # its position is unambiguous
        assert row["prompt"] == row["prompt"].strip(), row
        assert len(row["prompt"].split()) < 16, row
        for key in ("subject", "attribute"):
            assert row[key], row
            assert row[key] == row[key].strip(), row


def test_facts_do_not_give_the_answer_away(facts: list[Row]):
    for row in facts:
        assert row["attribute"].lower() not in _normal(row["prompt"]).split(), row


def test_facts_are_unique(facts: list[Row]):
    assert len({_normal(row["prompt"]) for row in facts}) == len(facts)
    for rows in _grouped(facts, "relation_id").values():
        assert len({row["subject"] for row in rows}) == len(rows)


def test_relations_have_distinct_attributes(facts: list[Row]):
    for name, rows in _grouped(facts, "relation_id").items():
        attributes = {row["attribute"] for row in rows}
        assert len(attributes) >= 4, name
        # Answers are told apart by their first word, which is what a patched prompt predicts.
        assert len({attribute.split()[0] for attribute in attributes}) == len(attributes), name


def test_some_relations_are_rephrased_and_subjects_move(facts: list[Row]):
    relations = _grouped(facts, "relation_id").values()
    assert sum(len({row["template"] for row in rows}) > 1 for rows in relations) >= 3
    at_start = sum(row["template"].startswith("{}") for row in facts)
    assert 30 <= at_start <= len(facts) - 30


def test_questions_layout_and_counts(questions: list[Row]):
    assert [list(row) for row in questions] == [QUESTION_KEYS] * len(questions)
    subjects = _grouped(questions, "subject")
    assert {name: len(rows) for name, rows in subjects.items()} == dict.fromkeys(subjects, 30)
    assert len(subjects) == 14
    assert len({_normal(row["question"]) for row in questions}) == len(questions)


def test_questions_are_short_with_distinct_choices(questions: list[Row]):
    for row in questions:
        assert row["question"] == row["question"].strip(), row
        assert len(row["question"].split()) < 25, row
        assert len(row["choices"]) == 4, row
        assert len({_normal(choice) for choice in row["choices"]}) == 4, row
        for choice in row["choices"]:
            assert choice == choice.strip(), row
            assert 0 < len(choice.split()) < 6, row


def test_answers_are_balanced_within_each_subject(questions: list[Row]):
    for name, rows in _grouped(questions, "subject").items():
        counts = collections.Counter(row["answer"] for row in rows)
        assert set(counts) == {0, 1, 2, 3}, name
        assert max(counts.values()) - min(counts.values()) <= 1, name


def test_no_row_is_in_the_public_sets(facts: list[Row], questions: list[Row]):
    public_facts, public_questions = SHARED / "known_facts.jsonl", SHARED / "mmlu.jsonl.gz"
    if not (public_facts.is_file() and public_questions.is_file()):
        pytest.skip("shared/data with the public sets is not beside the checkout")
    theirs = {_normal(row["prompt"]) for row in _rows(public_facts)}
    assert not theirs & {_normal(row["prompt"]) for row in facts}
    with gzip.open(public_questions, "rt", encoding="utf-8") as lines:
        theirs = {_normal(json.loads(line)["question"]) for line in lines}
    assert not theirs & {_normal(row["question"]) for row in questions}
