"""A few facts and questions, and traces of the tiny model made from them once."""

import gzip
import json

import pytest

from selfx.tasks.trace import trace

RELATIONS = ("capital", "made_by")
ENDS = "acdjmnpux"
"""After these the tiny model says something that prints."""


def make_facts():
    facts = []
    for relation in RELATIONS:
        for number in range(24):
            subject = f"{relation[:2].title()} {number}"
            facts.append(
                {
                    "subject": subject,
                    "attribute": f"{'ABCDEFGHIJKL'[number % 6]}ville",
                    "prompt": f"{subject} was by{ENDS[number % len(ENDS)]}",
                    "relation_id": relation,
                }
            )
    return facts


def make_questions(n=80):
    return [
        {
            "question": f"What is {number} plus {number * 7 % 5}?",
            "choices": [str(number + shift) for shift in (1, 3, 2, 9)],
            "answer": number % 4,
        }
        for number in range(n)
    ]


def write_lines(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(scope="session")
def facts_file(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("data") / "facts.jsonl", make_facts())


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("data") / "questions.jsonl.gz", make_questions())


@pytest.fixture(scope="module")
def patching_trace(tmp_path_factory, tiny_lm, facts_file):
    """The folder and record of a trace of activation patching."""
    folder = tmp_path_factory.mktemp("patching") / "trace"
    record = trace("activation-patching", tiny_lm, folder, data=facts_file, limit=40, seed=3)
    return folder, record


@pytest.fixture(scope="module")
def ablation_trace(tmp_path_factory, tiny_lm, questions_file):
    """The folder and record of a trace of input ablation."""
    folder = tmp_path_factory.mktemp("ablation") / "trace"
    options = {"max_tokens": 700, "hints_per_question": 2}
    record = trace("input-ablation", tiny_lm, folder, data=questions_file, limit=40, **options)
    return folder, record


@pytest.fixture
def lines(tmp_path):
    """A function: rows as a file of JSON lines."""
    return lambda rows, name="rows.jsonl": write_lines(tmp_path / name, rows)


@pytest.fixture
def facts():
    return make_facts()


@pytest.fixture
def questions():
    return make_questions(8)
