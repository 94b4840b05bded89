"""Answers in words: how they are compared, rivals that know less, and a whole evaluation."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import WORDS, kind_of
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.answers.word_answers import (
    BY_WORDS,
    head_words,
    majority_words,
    majority_words_per_ask,
    majority_words_per_cell,
)
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import render
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.scores import build_scores
from selfx.evaluation.table import score_table
from selfx.explainer.answer import untrained
from selfx.explainer.training import Training
from selfx.tasks import reading
from selfx.tasks.store import load_examples
from selfx.tasks.trace import trace


@pytest.fixture
def words(example):
    """A maker: `words([("here", "sea", 3)])` are examples of (ask, answer, layer)."""

    def make(rows):
        return [
            replace(
                example(n, False, "", cell=f"{ask} × layer {layer}", task="activation-reading"),
                answer=answer,
                details={"ask": ask},
            )
            for n, (ask, answer, layer) in enumerate(rows)
        ]

    return make


def rated(examples, answers):
    (rows,) = BY_WORDS.rate(examples, [Answered("x", "none", answers)])
    return {name: column.tolist() for name, column in rows.columns().items()}


@pytest.mark.parametrize(
    ("truth", "answer", "exact", "first", "parsed"),
    [
        ("sea", "sea", 1, 1, 1),
        ("sea", ' "Sea". ', 1, 1, 1),
        ("sea", "sea is", 0, 1, 1),
        ("sea", "seas", 0, 0, 1),
        ("sea", "", 0, 0, 0),
        ("sea", " \n", 0, 0, 0),
        ("sea", "...", 0, 0, 1),
        ("and, in, a", "and, in, a", 1, 1, 1),
        ("and, in, a", "and, a, in", 0, 1, 1),
        ("and, in, a", "in, and, a", 0, 0, 1),
        ("the Blue  sea,", "The blue sea", 1, 1, 1),
        ("the blue sea", "the, blue sea", 0, 1, 1),
        ("A", "A", 1, 1, 1),
        ("A", "B", 0, 0, 1),
    ],
)
def test_how_an_answer_is_rated(words, truth, answer, exact, first, parsed):
    got = rated(words([("here", truth, 1)]), [answer])
    assert got == {"exact_match": [exact], "first": [first], "parsed": [parsed]}


def test_as_many_answers_as_examples(words):
    with pytest.raises(SelfxError, match="1 answers to 2 examples"):
        rated(words([("here", "a", 1), ("here", "b", 1)]), ["a"])


def test_constant_answers(words):
    train = words(
        [
            *[("here", "sea", 1)] * 3,
            *[("here", "war", 3)] * 2,
            *[("which", "A", 1)] * 4,
            ("which", "B", 3),
        ]
    )
    test = words([("here", "x", 1), ("here", "x", 3), ("which", "x", 3), ("next", "x", 5)])
    assert majority_words(train, test) == ["A"] * 4
    assert majority_words_per_ask(train, test) == ["sea", "sea", "A", "A"]
    assert majority_words_per_cell(train, test) == ["sea", "war", "B", "A"]


def test_scores_are_told_apart_by_what_is_asked(words):
    """Of 4 here-questions 3 right with the vector and 1 without; of 2 which-questions 1 and 1."""
    examples = words([("here", f"w{n}", 1) for n in range(4)] + [("which", "A", 1)] * 2)
    runs = [
        Answered("x", "none", ["w0", "w1", "w2", "-", "A", "B"]),
        Answered("x", "zero", ["w0", "-", "-", "-", "A", "B"]),
    ]
    scores = build_scores(examples, runs, target="tiny", scoring=BY_WORDS, resamples=200)
    assert scores["headline"] == "exact_match"
    assert [row["metrics"]["exact_match"]["value"] for row in scores["rows"]] == [4 / 6, 2 / 6]
    here, which = scores["by_ask"]["here"], scores["by_ask"]["which"]
    assert list(scores["by_ask"]) == ["here", "which"]
    assert (here["n"], which["n"]) == (4, 2)
    assert [row["metrics"]["exact_match"]["value"] for row in here["rows"]] == [0.75, 0.25]
    assert [row["metrics"]["exact_match"]["value"] for row in which["rows"]] == [0.5, 0.5]
    assert here["lift"]["metrics"]["exact_match"]["value"] == 0.5
    assert which["lift"]["metrics"]["exact_match"]["value"] == 0.0
    table = score_table({**scores, "task": "activation-reading"}).split("\n")
    start = table.index("exact match by ask")
    assert table[start + 1].split() == ["explainer", "input", "here", "(4)", "which", "(2)"]
    assert table[start + 2].split() == ["x", "none", "75.0", "50.0"]
    assert table[start + 3].split() == ["x", "zero", "25.0", "50.0"]


def test_other_kinds_are_not_told_apart(example):
    runs = [Answered("x", "none", ["-"])]
    assert "by_ask" not in build_scores([example(0, True, "a")], runs, target="t", resamples=10)
    assert kind_of("activation-reading") is WORDS


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_lm):
    folder = tmp_path_factory.mktemp("reading")
    rng, words = np.random.default_rng(0), ["war", "the", "Anna", "of", "ran", "sea", "a", "tree"]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 40))}) for _ in range(16)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    options = {"length": 24, "shown": 3, "most": 1.0, "batch_size": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "TEXTS_A_BLOCK", 12)
        out = folder / "trace"
        trace("activation-reading", tiny_lm, out, data=folder / "text.jsonl", limit=60, **options)
    return out


@pytest.fixture(scope="module")
def done(data, tiny_lm, tmp_path_factory):
    """The folder and scores of an evaluation of the model before training."""
    out = tmp_path_factory.mktemp("evaluation") / "scores"
    explainer = replace(untrained(tiny_lm, Training(style="plain")), name="runs/tiny")
    baselines = tuple(name for name in WORDS.baselines if name not in ("few-shot", "selfie"))
    settings = Evaluation(("zero", "shuffled"), baselines, max_new_tokens=3, batch_size=16)
    return out, evaluate(explainer, data, out, settings)


def test_a_whole_evaluation(done, data):
    out, scores = done
    names = [(row["explainer"], row["control"]) for row in scores["rows"]]
    assert names == [
        *[("runs/tiny", control) for control in ("none", "zero", "shuffled")],
        *[(name, "none") for name in WORDS.baselines if name not in ("few-shot", "selfie")],
    ]
    assert json.loads((out / "scores.json").read_text()) == scores
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    test = {example.id: example for example in load_examples(data, "test")}
    assert len(rows) == len(names) * len(test)
    for row in rows:
        assert row["answer"] == test[row["id"]].answer
        assert row["ask"] == test[row["id"]].details["ask"]


def test_the_lens_baseline_knows_what_the_head_reads_and_no_more(done):
    """Of `lens` it is the truth itself; where the vector alone does not tell it says nothing."""
    rows = [
        row
        for row in pq.read_table(done[0] / "predictions.parquet").to_pylist()
        if row["explainer"] == "logit-lens"
    ]
    asks = {ask: [row for row in rows if row["ask"] == ask] for ask in ("here", "next", "lens")}
    assert min(len(some) for some in asks.values()) >= 1
    assert all(row["exact"] for row in asks["lens"])
    for row in asks["next"]:
        assert len(row["prediction"].split()) == 1
        assert row["cell"] != "next × layer 3" or row["exact"]  # the last layer: the model itself
    assert all(row["prediction"] == "" for row in rows if row["ask"] not in asks)


def test_a_head_of_another_width_says_nothing(data, tiny_lm):
    test = load_examples(data, "test")
    narrow = [replace(example, vectors=np.ones((1, 8), np.float32)) for example in test]
    assert set(head_words(tiny_lm, narrow)) == {""}


def test_the_report_shows_each_kind_of_question(done):
    html = render([load_evaluation(done[0])])
    scores = done[1]
    assert "Exact match by kind of question" in html
    assert "Exact match by kind of question and layer" in html
    for ask in scores["by_ask"]:
        assert f">{ask}<" in html
    assert html.count('<details class="answer ') >= 1
    assert "Shown activations that" in html


def test_answers_in_a_report_are_escaped(words, tmp_path):
    from selfx.evaluation.scores import write_evaluation

    examples = words([("here", "<b>sea", 1), ("which", "A", 1)])
    runs = [Answered("x", "none", ["<script>1", "A"])]
    write_evaluation(tmp_path, examples, runs, target="t", scoring=BY_WORDS, resamples=50)
    html = render([load_evaluation(tmp_path)])
    assert "<script>1" not in html
    assert "&lt;script&gt;1" in html


def test_a_simulator_is_refused(data, tiny_lm, tmp_path):
    explainer = untrained(tiny_lm, Training(style="plain"))
    with pytest.raises(SelfxError, match="for words"):
        evaluate(explainer, data, tmp_path, Evaluation(simulator="x"))
    with pytest.raises(SelfxError, match="baseline 'gold' for answers that are words"):
        evaluate(explainer, data, tmp_path, Evaluation(baselines=("gold",)))
