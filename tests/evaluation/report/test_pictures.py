"""The report's grids, curves and matrices say what the predictions and scores say."""

import json

import numpy as np
import pytest

from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.calibration import calibration as calibration_view
from selfx.evaluation.report.charts import counts, percents
from selfx.evaluation.report.grids import grid, in_cells, is_grid
from selfx.evaluation.report.page import render, view
from selfx.evaluation.report.seeds import seeds
from selfx.evaluation.report.several import several
from selfx.evaluation.scores import write_evaluation
from selfx.evaluation.statistics.calibration import calibrated, calibration_of
from selfx.evaluation.statistics.seeds import alike, of_evaluations

TOKENS = ("last", "subject_first", "relation")
LAYERS = ("8-15", "0-7", "16-23")


@pytest.fixture
def folder(tmp_path, example, word):
    """A maker: an evaluation of nine cells, whose first `right` answers in each cell are right."""

    def make(
        name,
        *,
        right=2,
        control=1,
        examples=None,
        seed=None,
        target="tiny",
        model="tiny",
        blind=False,
    ):
        cells = [f"{token} × {layers}" for token in TOKENS for layers in LAYERS]
        asked = [
            example(9 * i + j, (i + j) % 3 == 0, f"w{i}", cell=cell)
            for i in range(4)
            for j, cell in enumerate(cells)
        ]

        def answers(first):
            return [e.answer if n // 9 < first else word(True, "no") for n, e in enumerate(asked)]

        runs = [
            Answered("run", "none", answers(right)),
            Answered("run", "zero", answers(control)),
            Answered("majority", "none", answers(0)),
        ]
        provenance = {"explainer_model": model}
        if seed is not None:
            provenance["training"] = {"seed": seed, "rank": 4, "blind": blind}
        if examples is not None:
            provenance["trace"] = {"counts": {"train": examples}}
        path = tmp_path / name
        write_evaluation(path, asked, runs, target=target, resamples=50, provenance=provenance)
        return path

    return make


def test_grids_hold_each_cells_shares_and_counts(folder):
    evaluation = load_evaluation(folder("ap"))
    grids = view(evaluation)["grids"]
    assert [one.title for one in grids] == [
        "Changed in truth, %",
        "Changed, says the explainer, %",
        "Exact match, %",
        "Exact match of run · zero, %",
    ]
    rows = evaluation["predictions"].to_pylist()
    for one, control, column in zip(
        grids,
        ("none", "none", "none", "zero"),
        ("changed", "predicted_changed", "exact", "exact"),
        strict=True,
    ):
        assert one.corner == "Layers"
        assert one.columns == ("0-7", "8-15", "16-23"), "in the order of the layers"
        assert [name for name, _ in one.lines] == ["subject_first", "relation", "last"]
        for name, squares in one.lines:
            for layers, square in zip(one.columns, squares, strict=True):
                own = [
                    row[column]
                    for row in rows
                    if (row["explainer"], row["control"]) == ("run", control)
                    and row["cell"] == f"{name} × {layers}"
                ]
                assert (square.n, square.share) == (4, np.mean(own))
                assert square.few


def test_a_grids_numbers_are_written_out_with_a_shade(folder):
    html = render([load_evaluation(folder("ap", right=4, control=0))])
    assert html.count('<td class="h10 few">100<small>4</small></td>') == 9, "all right"
    assert html.count('<td class="h0 few">0<small>4</small></td>') == 9, "none under the control"


def test_many_layers_go_down_and_holes_stay_holes():
    rows = [{"cell": f"{ask} × layer {n}", "right": n % 2} for n in range(20) for ask in "ab"]
    found = grid("t", in_cells(rows[1:]), lambda row: row["right"])
    assert found.columns == ("a", "b")
    assert [name for name, _ in found.lines] == [f"layer {n}" for n in range(20)]
    assert found.lines[0][1][0] is None
    assert found.lines[3][1][0].share == 1
    assert not is_grid({"hint A": [], "hint B": [], "hint C": [], "hint D": []})


def seen(*folders):
    loaded = (load_evaluation(path) for path in folders)
    return several([view(each, f"e{n}") for n, each in enumerate(loaded)])


def test_scores_over_the_examples_learned_from_with_seeds_as_points(folder):
    """Two seeds at 100 examples, one at 1,000: the line goes through the mean of the two."""
    paths = [
        folder("a", right=1, examples=100, seed=0),
        folder("b", right=2, examples=100, seed=1),
        folder("c", right=4, examples=1000, seed=0),
    ]
    (group,) = seen(*paths)
    own, without = group["curve"]["curves"]
    assert (own["name"], without["name"]) == ("own input", "without it")
    assert (len(own["points"]), len(own["line"])) == (3, 2)
    heights = {title: y for _, y, title in own["points"]}
    assert own["line"][0][1] == pytest.approx((heights["a: 25.0"] + heights["b: 50.0"]) / 2)
    assert own["line"][1][1] == pytest.approx(heights["c: 100.0"])
    assert [tick["name"] for tick in group["curve"]["across"]] == ["100", "1,000"]
    assert group["matrix"] is None


def test_what_differs_by_the_seed_alone_is_shown_as_one(folder):
    paths = [
        folder("a", right=1, examples=100, seed=0),
        folder("b", right=3, examples=100, seed=1),
        folder("c", right=4, examples=1000, seed=2),
    ]
    loaded = [load_evaluation(path) for path in paths]
    (group,) = alike(loaded)
    found = seeds(of_evaluations(group))
    assert (found["folders"], found["seeds"]) == (["a", "b"], [0, 1])
    (main,) = [row for row in found["rows"] if row["main"]]
    assert main["by_seed"] == pytest.approx([0.25, 0.75])
    assert main["value"] == pytest.approx(0.5)
    assert main["spread"] == pytest.approx(np.std([0.25, 0.75], ddof=1))
    assert (found["lift"]["over"], found["lift"]["value"]) == ("zero", pytest.approx(0.25))
    html = render(loaded)
    assert html.count("Over seeds: activation-patching, tiny") == 1
    assert "Over seeds: No use of the activation was shown" in html, "two seeds, far apart"
    assert '<td class="number">25.0, 75.0</td>' in html
    assert "Over seeds" not in render(loaded[1:])


def test_of_two_models_each_is_named_over_seeds(folder):
    paths = [
        folder(f"{model}-{seed}", right=2, examples=100, seed=seed, model=model)
        for model in ("tiny", "runs/other/model")
        for seed in (0, 1)
    ]
    html = render([load_evaluation(path) for path in paths])
    for name in ("tiny", "other/model"):
        assert f"Over seeds: activation-patching, tiny, explained by {name}</h2>" in html


def test_explainers_and_targets_make_a_matrix(folder):
    paths = [
        folder(f"{model}-{target}", right=right, model=model, target=target)
        for model, target, right in [("m", "m", 4), ("n", "m", 2), ("m", "n", 1)]
    ]
    (group,) = seen(*paths)
    matrix = group["matrix"]
    assert matrix["models"] == ["m", "n"]
    (first, (own, cross)), (second, (other, none)) = matrix["lines"]
    assert (first, second) == ("m", "n")
    assert (own["value"], cross["value"], other["value"], none) == (1, 0.5, 0.25, None)
    assert (own["own"], cross["own"]) == (True, False)
    assert own["without"] == 0.25
    page = render([load_evaluation(path) for path in paths])
    assert "◆ 100.0" in page
    blind = folder("text", right=1, model="m", target="m", seed=0, blind=True)
    (group,) = seen(*paths, blind)
    assert group["matrix"] == matrix, "it reads the text, and explains no model"
    assert len(group["rows"]) == 4
    assert seen(blind, folder("again", model="m", seed=1, blind=True))[0]["matrix"] is None
    assert "Together: activation-patching" in page


def test_one_evaluation_alone_is_not_compared(folder):
    assert seen(folder("a", examples=100)) == []


def test_scales_hold_what_is_shown():
    scale = counts([10, 100, 1000])
    assert scale(100) == pytest.approx(0.5)
    assert [name for _, name in scale.ticks] == ["10", "100", "1,000"]
    shares = percents(-0.1, 0.3)
    assert (shares.low, shares.high) == (-0.25, 0.5)
    assert shares(0.125) == pytest.approx(0.5)


def test_calibration_shows_the_bins_and_the_curve(folder):
    rng = np.random.default_rng(0)
    confidence = rng.random(300)
    measured = calibration_of(calibrated(confidence, rng.random(300) < confidence), resamples=20)
    path = folder("ap") / "scores.json"
    scores = json.loads(path.read_text())
    scores["calibration"] = {"raw": measured}
    path.write_text(json.dumps(scores))
    found = calibration_view(scores["calibration"])
    ideal, own = found["charts"][0]["reliability"]["curves"]
    assert len(own["points"]) == len(measured["bins"]) == 15
    (x0, y0), (x1, y1) = ideal["line"]
    for (x, y, _), each in zip(own["points"], measured["bins"], strict=True):
        assert (x - x0) / (x1 - x0) == pytest.approx(each["confidence"])
        assert (y - y0) / (y1 - y0) == pytest.approx(each["accuracy"])
    page = render([load_evaluation(path.parent)])
    assert f"{100 * measured['metrics']['ece']['value']:.1f}<small>" in page
    assert page.count("<polyline") == 3, "as it should be, as it is, and risk over coverage"
    assert calibration_view(None) is None


def test_judges_stand_side_by_side_with_their_agreement(folder, monkeypatch):
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    row = {"explainer": "run", "score": interval, "asked": 36, "unread": 2}
    rows = [{**row, "control": "none"}, {**row, "control": "zero", "unread": 0}]
    lift = {"control": "zero", "score": {"value": 0.1, "low": 0.0, "high": 0.2}}
    pair = {"a": "one", "b": "two", "over": "everybody's answers", "n": 72, "kendall": None}
    judged = {
        "judges": [
            {"judge": "one", "rows": rows, "lift": lift},
            {"judge": "two", "rows": rows[:1], "lift": None},
        ],
        "agreement": [{**pair, "spearman": interval, "kappa": {**interval, "low": None}}],
    }
    monkeypatch.setattr("selfx.evaluation.report.page.load_judged", lambda folder: judged)
    path = folder("ap")
    judges = view(load_evaluation(path))["judges"]
    assert judges["names"] == ["one", "two"]
    assert [one and one["unread"] for one in judges["rows"][1]["scores"]] == [0, None]
    page = render([load_evaluation(path)])
    assert "2 of 36 unread" in page
    assert "0.50<small>0.40 to 0.60</small>" in page
    assert "+10.0<small>+0.0 to +20.0</small>" in page
    assert "everybody&#39;s answers" in page
