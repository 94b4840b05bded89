"""The report of descriptions: heat that can be read without colour, hostile text, both kinds."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.descriptions import Descriptions
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.answers.shown import FEATURES_SHOWN, TOKENS_SHOWN, shown, spread
from selfx.evaluation.answers.simulated import Judges, simulate
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.descriptions import heat
from selfx.evaluation.report.page import place, render, view
from selfx.evaluation.report.wording import finding
from selfx.evaluation.scores import write_evaluation
from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.features.scores.similarity import Tfidf

ATTACK = "<script>alert('x')</script>"
LETTERS = "kqxz"


class Page(HTMLParser):
    """The tags of a page, the text within each mark, and the text outside of styles."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.marks, self.texts, self.inside = [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "mark":
            self.marks.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        while self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "mark" in self.inside[-1:]:
            self.marks[-1][1] += data
        if "style" not in self.inside:
            self.texts.append(data)


@pytest.fixture
def folder(tmp_path, described, evidence):
    """An evaluation of twelve features; the first's texts and everybody's words are an attack."""
    examples = [described(n, LETTERS[n % 4], layer=(2, 10)[n % 2]) for n in range(12)]
    texts = {e.id: evidence(LETTERS[n % 4], seed=n) for n, e in enumerate(examples)}
    first = texts["f0"].excerpts[0]
    pieces = (first.pieces[0], "\n", ATTACK, *first.pieces[3:])
    levels = first.activations.copy()
    levels[1:3] = 4.0, 1.5
    attacked = dataclasses.replace(first, pieces=pieces, activations=levels)
    texts["f0"] = dataclasses.replace(
        texts["f0"], excerpts=(attacked, *texts["f0"].excerpts[1:]), promoted=(ATTACK,)
    )
    scoring = Descriptions(texts, Judges(simulate, Tfidf.of([]), {"simulator": {"name": "mine"}}))
    gold = [e.answer for e in examples]
    runs = [
        Answered("self", "none", [g if n else ATTACK for n, g in enumerate(gold)]),
        Answered("self", "zero", ["weakly on digits"] * 12),
        Answered("self", "shuffled", [gold[n - 1] for n in range(12)]),
        Answered("nearest-cosine", "none", gold[::-1]),
        Answered("gold", "none", gold),
    ]
    path = tmp_path / "features"
    made = scoring.record()
    settings = {"scoring": scoring, "resamples": 100, "provenance": made}
    write_evaluation(path, examples, runs, target="tiny", **settings)
    return path


def test_heat_has_a_step_a_thickness_and_a_title():
    tokens = heat(["a", "b", "c", "d", "\n"], [0.0, 0.01, 1.0, 2.0, -1.0], 2.0)
    assert [token["step"] for token in tokens] == [0, 1, 5, 10, 0]
    assert tokens[2]["title"] == "1, 50.0 % of the highest"
    assert [token["text"] for token in tokens] == ["a", "b", "c", "d", "↵"]
    assert [token["step"] for token in heat("ab", [0.0, 0.0], 0.0)] == [0, 0]


def test_every_step_is_thicker_or_as_thick_and_stronger_than_the_one_before(folder):
    html = render([load_evaluation(folder)])
    rules = re.findall(r"mark\.h(\d+) \{ background: rgb\(var\(--heat\) / (\d+)%\); "
                       r"border-bottom-width: (\d+)px", html)  # fmt: skip
    steps, strengths, widths = zip(*[map(int, rule) for rule in rules], strict=True)
    assert steps == tuple(range(1, 11))
    assert sorted(set(strengths)) == list(strengths)
    assert sorted(widths) == list(widths)
    assert widths[-1] > widths[4] > widths[0] > 0
    assert html.count("--heat: ") == 3, "for light pages, for dark ones, and on paper"


def test_tokens_are_marked_by_their_activation(folder):
    evaluation = load_evaluation(folder)
    page = Page(render([evaluation]))
    expected = []
    for feature in evaluation["examples"]:
        for text in feature["texts"]:
            for piece, level in zip(text["pieces"], text["activations"], strict=True):
                if level > 0:
                    share = level / feature["peak"]
                    expected.append((piece.replace("\n", "↵"), max(round(10 * share), 1), level))
    found = [(text, int(a["class"][1:]), a["title"]) for a, text in page.marks]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for (_, _, title), (_, _, level) in zip(found, expected, strict=True):
        assert title.startswith(f"{level:.3g}, ")


def test_hostile_text_stays_text(folder):
    html = render([load_evaluation(folder)])
    page = Page(html)
    assert ATTACK in page.text
    assert any(text == ATTACK for _, text in page.marks), "a token"
    assert f"“{ATTACK}”" in page.text, "a token that the feature makes likelier"
    assert "<script" not in html
    assert not {"script", "img", "link"} & {tag for tag, _ in page.tags}
    assert "http://" not in html
    assert "https://" not in html


def test_line_breaks_are_visible(folder):
    page = Page(render([load_evaluation(folder)]))
    assert any(text == "↵" for _, text in page.marks)


def test_a_feature_stands_with_what_everybody_says_of_it(folder):
    seen = view(load_evaluation(folder))
    first = next(one for one in seen["features"] if "f0" in one["name"])
    assert first["name"] == "layer 2 · feature 0 · d · f0"
    assert first["truth"] == 'Fires strongly on "k".'
    assert [(row["by"], row["fed"], row["main"]) for row in first["said"]] == [
        ("self · none", "its own input", True),
        ("self · zero", "a vector of zeros", False),
        ("self · shuffled", "another example's vector", False),
        ("nearest-cosine", "baseline", False),
        ("gold", "baseline", False),
    ]
    assert first["said"][0]["text"] == ATTACK
    assert first["said"][4]["scores"][0] > first["said"][1]["scores"][0]
    page = Page(render([load_evaluation(folder)])).text
    assert "12 questions in 12 groups. Simulator: mine." in page
    assert "12.5 % of all tokens" in page


def test_layers_stand_in_order_with_their_means(folder):
    evaluation = load_evaluation(folder)
    layers = view(evaluation)["layers"]
    assert [(layer["cell"], layer["n"]) for layer in layers] == [("layer 2", 6), ("layer 10", 6)]
    predictions = evaluation["predictions"].to_pylist()
    rows, best = predictions[:12], evaluation["scores"]["lift"]["control"]
    zero = [r for r in predictions if (r["explainer"], r["control"]) == ("self", best)]
    for layer in layers:
        own = [row for row in rows if row["cell"] == layer["cell"]]
        score, beside = layer["scores"][0]
        assert score == pytest.approx(np.mean([row["simulation"] for row in own]))
        others = [row for row in zero if row["cell"] == layer["cell"]]
        assert beside == pytest.approx(np.mean([row["simulation"] for row in others]))
        assert layer["scores"][6][0] == np.mean([row["exact"] for row in own])


def test_the_finding_goes_by_the_simulation_score():
    change = {"value": 0.2, "low": 0.1, "high": 0.3}
    lift = {"explainer": "self", "control": "zero", "metrics": {"simulation": change}}
    said = finding({"task": "feature-description", "lift": lift})
    assert said == (
        "The direction adds +20.0 points of simulation score (+10.0 to +30.0) over the best "
        "control (zero)."
    )
    assert "the direction was used" in finding({"task": "feature-description", "lift": None})


def test_pictures_reach_below_zero_where_scores_do(folder):
    evaluation = load_evaluation(folder)
    axes = view(evaluation)["axes"]
    assert axes["detection"]["low"] == 0
    rows = {row["control"]: row["metrics"] for row in evaluation["scores"]["rows"][:3]}
    assert rows["shuffled"]["simulation"]["low"] < 0
    assert axes["simulation"]["low"] <= rows["shuffled"]["simulation"]["low"]
    assert 0 in axes["simulation"]["ticks"]
    assert [place(score, -0.5) for score in (-0.5, 0.25, 1.0, -3.0)] == [0, 0.5, 1, 0]
    page = Page(render([evaluation]))
    zeros = [a for tag, a in page.tags if tag == "line" and a["class"] == "grid zero"]
    assert zeros
    assert all(290 < float(a["x1"]) < 790 for a in zeros)


def test_features_are_spread_evenly_over_the_ranks():
    scores = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.4])
    assert [scores[row] for row in spread(scores, 4)] == [0.1, 0.3, 0.5, 0.9]
    assert spread(scores, 99) == [1, 5, 3, 6, 0, 4, 2]
    assert spread(np.zeros(20), FEATURES_SHOWN) == [0, 4, 8, 11, 15, 19]


def test_a_long_text_is_cut_around_its_peak_and_uncounted_tokens_are_cold(described):
    levels = np.zeros(200, np.float32)
    levels[[0, 120]] = 9, 5
    text = Excerpt(tuple(map(str, range(200))), levels, "top", skip=1)
    (feature,) = shown([described(0, "k")], [Evidence(0, (text,))], np.zeros(1))["features"]
    (kept,) = feature["texts"]
    assert len(kept["pieces"]) == len(kept["activations"]) == TOKENS_SHOWN
    assert kept["activations"][kept["pieces"].index("120")] == 5
    assert sum(kept["activations"]) == 5
    assert kept["cut"] == [True, True]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text("[]"), "cannot be read"),
        (lambda path: _change(path, lambda one: one.pop("texts")), "'texts'"),
        (lambda path: _change(path, lambda one: one.pop("frequency")), "'frequency'"),
        (lambda path: _change(path, lambda one: one.update(peak="x")), "cannot be read"),
        (lambda path: _change(path, lambda one: one["texts"][0]["pieces"].pop()), "without an act"),
        (lambda path: _change(path, lambda one: one.update(peak=float("nan"))), "no number"),
    ],
)
def test_damaged_examples_are_named(folder, damage, message):
    damage(folder / "examples.json")
    with pytest.raises(SelfxError, match=message) as caught:
        load_evaluation(folder)
    assert str(folder / "examples.json") in caught.value.got


def _change(path, edit):
    found = json.loads(path.read_text())
    edit(found["features"][0])
    path.write_text(json.dumps(found))
