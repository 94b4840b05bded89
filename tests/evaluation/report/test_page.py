import collections
import dataclasses
import json
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import render, view, write_report
from selfx.evaluation.report.wording import asked, finding
from selfx.evaluation.scores import write_evaluation

ATTACK = "<script>alert('x')</script>"


class Page(HTMLParser):
    """The text of a page, its tags, and whether every tag is closed."""

    VOID = frozenset({"meta", "line", "circle", "rect", "polyline", "input"})

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture
def evaluate(tmp_path, example, word):
    """A maker of evaluation folders: which share of answers each (explainer, control) has right."""

    def make(name, shares, *, task="activation-patching", n=60, pad="", provenance=None):
        examples = [
            example(i, i % 4 == 0, f"w{i}", cell=f"relation × {i % 3 * 8}", task=task)
            for i in range(n)
        ]
        runs = [
            Answered(
                explainer,
                control,
                [
                    e.answer if i / n < share else word(True, ATTACK) if i % 2 == 0 else "hm"
                    for i, e in enumerate(examples)
                ],
            )
            for (explainer, control), share in shares.items()
        ]
        folder = tmp_path / name
        examples = [dataclasses.replace(e, question=e.question + pad) for e in examples]
        settings = {"weights": "ab12", **(provenance or {})}
        write_evaluation(folder, examples, runs, target="tiny", resamples=200, provenance=settings)
        return folder

    return make


SHARES = {
    ("majority", "none"): 0.2,
    ("self", "none"): 0.8,
    ("self", "zero"): 0.4,
    ("self", "shuffled"): 0.3,
}


def test_of_contrast_sets_it_says_what_text_could_do():
    scores = {"task": "activation-patching", "target": "m"}
    told = {"provenance": {"trace": {"most_from_text": 1 / 3}}}
    assert asked(scores | told).startswith(asked(scores))
    assert asked(scores | told).endswith("from the text alone 33.3 % can be right, at most.")


def test_shows_scores_controls_baselines_and_the_lift(evaluate, tmp_path):
    folder = evaluate("ap", SHARES)
    path = write_report(tmp_path / "out" / "report.html", [load_evaluation(folder)])
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open
    scores = load_evaluation(folder)["scores"]
    for row in scores["rows"]:
        for score in row["metrics"].values():
            assert f"{100 * score['value']:.1f}" in page.text
            assert f"{100 * score['low']:.1f} to {100 * score['high']:.1f}" in page.text
    assert "The activation adds +40.0 points of exact match (+" in page.text
    assert "over the best control (zero)." in page.text
    assert "An activation of tiny, taken while it read another prompt" in page.text
    assert "60 questions in 60 groups" in page.text
    assert "the output changed in 25.0 % of them and stayed in 75.0 %" in page.text
    assert '"weights": "ab12"' in page.text
    marked = [attrs["class"] for tag, attrs in page.tags if tag == "tr" and attrs]
    assert marked == ["main"] * 3, "among scores, among the others the best, by released rules"
    found = {row["control"]: row for row in scores["paired"]}["zero"]
    p = "< 0.001" if found["test"]["p"] < 0.001 else f"{found['test']['p']:.3f}"
    assert f"{p} {100 * found['smallest']['exact_match']:.1f}" in page.text
    assert page.text.count("of self · zero") > 0, "cells stand beside the best control's"


def test_plots_every_row_of_every_metric_where_it_belongs(evaluate):
    page = Page(render([load_evaluation(evaluate("ap", SHARES))]))
    assert sum(tag == "svg" for tag, _ in page.tags) == 3, "all but the share that was read"
    circles = [attrs for tag, attrs in page.tags if tag == "circle"]
    squares = [attrs for tag, attrs in page.tags if tag == "rect"]
    assert (len(circles), len(squares)) == (3 * 3, 3 * 1)
    kinds = [attrs["class"] for tag, attrs in page.tags if tag == "g"]
    assert kinds == ["baseline", "explainer main", "control", "control"] * 3
    ticks = {text: i for i, text in enumerate(page.texts)}
    assert {"0", "25", "50", "75", "100"} <= set(ticks)
    lines = [
        float(attrs["x1"]) for tag, attrs in page.tags if tag == "line" and attrs["class"] == "grid"
    ]
    zero, hundred = lines[0], lines[4]
    assert float(circles[0]["cx"]) == pytest.approx(zero + 0.8 * (hundred - zero))


def test_text_of_models_is_escaped(evaluate):
    html = render([load_evaluation(evaluate("name & <b>", SHARES))])
    page = Page(html)
    assert ATTACK in page.text
    assert not {"script", "b", "link", "img"} & {tag for tag, _ in page.tags}
    assert "http://" not in html
    assert "https://" not in html


def test_long_names_stay_apart_and_the_untrained_model_is_a_baseline(evaluate):
    path = "/runs/" + "x" * 40 + "-seed3"
    shares = {("untrained", "none"): 0.1, (path, "none"): 0.8, (path, "zero"): 0.4}
    seen = view(load_evaluation(evaluate("ap", shares)))
    own = "…" + "x" * 19 + "-seed3"
    assert [row["label"] for row in seen["rows"]] == ["untrained", f"{own} · none", f"{own} · zero"]
    assert [row["kind"] for row in seen["rows"]] == ["baseline", "explainer", "control"]
    assert [row["main"] for row in seen["rows"]] == [False, True, False]


def test_cells_compare_measured_with_predicted(evaluate):
    cells = view(load_evaluation(evaluate("ap", SHARES)))["cells"]
    assert [cell["cell"] for cell in cells] == ["relation × 0", "relation × 8", "relation × 16"]
    assert [cell["n"] for cell in cells] == [20, 20, 20]
    # Of the last twelve rows (four a cell) the even ones answer "changed", the odd ones nothing.
    assert [cell["measured"] for cell in cells] == [5 / 20, 5 / 20, 5 / 20]
    assert [cell["predicted"] for cell in cells] == [6 / 20, 6 / 20, 6 / 20]
    assert [cell["exact"] for cell in cells] == [16 / 20, 16 / 20, 16 / 20]


def test_shows_right_and_wrong_answers_of_either_kind_with_their_controls(evaluate):
    """Of 60, 48 right; every fourth changed: 12 right and changed, 36 right, 3 and 9 wrong."""
    answers = view(load_evaluation(evaluate("ap", SHARES)))["answers"]
    assert answers["kinds"] == ["changed", "unchanged"]
    shown = answers["shown"]
    sizes = collections.Counter((answer["exact"], answer["kind"]) for answer in shown)
    assert sizes == {(True, 0): 12, (True, 1): 12, (False, 0): 3, (False, 1): 9}
    assert [a["id"] for a in shown[:3]] == ["e0", "e4", "e8"], "in the order of the questions"
    assert [a["id"] for a in shown[12:15]] == ["e1", "e5", "e9"], "every third of 36"
    assert [row["control"] for row in shown[8]["given"]] == ["none", "zero", "shuffled"]
    assert [row["exact"] for row in shown[8]["given"]] == [True, False, False]
    assert "36 of 60 answers: at most 12 right and 12 wrong ones of each kind" in answers["rule"]


def test_answers_are_told_apart_without_a_script(evaluate):
    """Each choice is a radio button before the answers, with a rule that hides the others."""
    html = render([load_evaluation(evaluate("ap", SHARES))])
    page = Page(html)
    radios = [attrs["id"] for tag, attrs in page.tags if tag == "input"]
    assert radios == [*(f"e1-was-{n}" for n in ("all", "right", "wrong")), "e1-of-all", "e1-of-0",
                      "e1-of-1"]  # fmt: skip
    labels = [attrs["for"] for tag, attrs in page.tags if tag == "label"]
    assert labels == radios
    assert ".was-right:checked ~ .answers > .wrong" in html
    assert ".of-1:checked ~ .answers > .answer:not(.k1)" in html
    classes = [a["class"] for tag, a in page.tags if tag == "details" and "answer" in str(a)]
    assert collections.Counter(classes)["answer wrong k0"] == 3


def test_a_report_of_many_long_answers_stays_small(evaluate):
    one = load_evaluation(evaluate("ap", SHARES, n=240, pad="why? " * 2000))
    assert len(render([one] * 8).encode()) < 2_000_000


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (0.01, 0.03, 0.05, "The activation adds +3.0 points of exact match (+1.0 to +5.0)"),
        (-0.01, 0.03, 0.05, "No use of the activation was shown: its difference"),
        (0.0, 0.03, 0.05, "No use of the activation was shown: its difference"),
        (-0.05, -0.03, -0.01, "does worse than under the best control (zero), by −3.0 points"),
    ],
)
def test_the_finding_says_what_was_shown(low, value, high, expected):
    change = {"value": value, "low": low, "high": high}
    lift = {"explainer": "self", "control": "zero", "metrics": {"exact_match": change}}
    assert expected in finding({"task": "activation-patching", "lift": lift})


def test_the_finding_without_controls():
    assert "No vector control was run" in finding({"task": "activation-patching", "lift": None})
    assert "carries no activation" in finding({"task": "input-ablation"})


def test_several_evaluations_share_a_page(evaluate):
    folders = [
        evaluate("ap", SHARES),
        evaluate("ia", {("self", "none"): 0.5}, task="input-ablation"),
    ]
    page = Page(render([load_evaluation(folder) for folder in folders]))
    assert "At a glance" in page.text
    assert "tiny answered a multiple-choice question that came with a hint" in page.text
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == ["e1", "e2"]
    assert "At a glance" not in Page(render([load_evaluation(folders[0])])).text


def test_baselines_alone_make_a_report(evaluate):
    assert "majority · none" in render(
        [load_evaluation(evaluate("b", {("majority", "none"): 0.2}))]
    )


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("scores.json", lambda path: path.unlink(), "is missing"),
        ("scores.json", lambda path: path.write_text("{"), "cannot be read"),
        ("scores.json", lambda path: path.write_text("[]"), "cannot be read"),
        ("scores.json", lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
        ("scores.json", lambda path: change(path, lambda s: s.update(rows=[])), "no rows"),
        ("scores.json", lambda path: change(path, lambda s: s["lift"].pop("control")), "'control'"),
        (
            "scores.json",
            lambda path: change(path, lambda s: s["rows"][0]["metrics"].pop("parsed")),
            "'parsed'",
        ),
        ("predictions.parquet", lambda path: path.unlink(), "is missing"),
        ("predictions.parquet", lambda path: path.write_bytes(b"PAR1"), "cannot be read"),
        (
            "predictions.parquet",
            lambda path: pq.write_table(pq.read_table(path).drop(["cell"]), path),
            "lacks the columns cell",
        ),
    ],
)
def test_a_broken_folder_is_named_with_the_next_move(evaluate, name, damage, message):
    folder = evaluate("ap", SHARES)
    damage(folder / name)
    with pytest.raises(SelfxError, match=message) as caught:
        load_evaluation(folder)
    assert str(folder / name) in caught.value.got
    assert f"selfx evaluate --data DIR --explainer RUN --out {folder}" in caught.value.hint


def change(path, edit):
    scores = json.loads(path.read_text())
    edit(scores)
    path.write_text(json.dumps(scores))


def test_no_evaluations_raise(tmp_path):
    with pytest.raises(SelfxError, match="no evaluations"):
        write_report(tmp_path / "report.html", [])
