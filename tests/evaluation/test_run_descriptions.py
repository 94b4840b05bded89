"""Evaluating an explainer of features from a trace folder to its files, stopped and resumed."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.evaluation import asked as asking
from selfx.evaluation.answers.kinds import DESCRIPTIONS
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.judge.work import look
from selfx.evaluation.report.page import write_report
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.table import score_table
from selfx.explainer.answer import untrained
from selfx.explainer.training import Training

CONTROLS = ("zero", "shuffled", "rotated")
BASELINES = [name for name in DESCRIPTIONS.baselines if name != "few-shot"]
QUICK = Evaluation(CONTROLS, tuple(BASELINES), max_new_tokens=4, batch_size=8)
ROWS = [("tiny", control) for control in ("none", *CONTROLS)]
ROWS += [(name, "none") for name in BASELINES]
FILES = {"scores.json", "predictions.parquet", "report.html", "examples.json", "candidates.json"}


@pytest.fixture(scope="module")
def data(feature_trace, tmp_path_factory):
    return feature_trace(tmp_path_factory.mktemp("data") / "trace")


@pytest.fixture(scope="module")
def explainer(tiny_lm):
    return dataclasses.replace(untrained(tiny_lm, Training(style="plain", seed=1)), name="tiny")


class Stop(Exception):
    pass


@pytest.fixture
def calls(monkeypatch):
    """What models were asked, `answer` or `selfie`; `calls.stop = n` ends it at the nth time."""

    class Calls(list):
        stop = None

    made = Calls()

    def counted(name):
        real = getattr(asking, name)

        def call(*arguments, **more):
            made.append(name)
            if len(made) == made.stop:
                raise Stop
            return real(*arguments, **more)

        return call

    for name in ("answer", "selfie"):
        monkeypatch.setattr(asking, name, counted(name))
    return made


@pytest.fixture(scope="module")
def whole(explainer, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores") / "scores"
    evaluate(explainer, data, out, QUICK)
    return out


@pytest.fixture(scope="module")
def scores(whole):
    return json.loads((whole / "scores.json").read_text())


def test_the_folder_holds_what_every_row_scored(whole, scores):
    assert {file.name for file in whole.iterdir()} == FILES
    assert scores["task"] == "feature-description"
    assert (scores["n"], scores["headline"]) == (8, "simulation")
    assert [(row["explainer"], row["control"]) for row in scores["rows"]] == ROWS
    for row in scores["rows"]:
        assert list(row["metrics"]) == list(DESCRIPTIONS.measures)
        for metric in row["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
    assert scores["lift"]["explainer"] == "tiny"


def test_true_descriptions_and_near_neighbours_score_high(scores):
    """Each letter's directions are near one another, so a neighbour's description is true."""
    by_name = {
        row["explainer"]: row["metrics"] for row in scores["rows"] if row["control"] == "none"
    }
    for name in ("gold", "nearest-cosine", "nearest-dot"):
        assert by_name[name]["exact_match"]["value"] == 1.0
        assert by_name[name]["simulation"]["value"] > 0.8
        assert by_name[name]["detection"]["value"] == 1.0
    assert by_name["majority"]["exact_match"]["value"] == 0.25
    assert by_name["majority"]["simulation"]["value"] < 0.4
    for name, metric in by_name["selfie-oracle"].items():
        assert metric["value"] >= by_name["selfie"][name]["value"]


def test_what_an_oracle_chose_from_is_kept_for_judges(whole):
    """SelfIE's answer at its one length is among those at all five."""
    (oracle,) = json.loads((whole / "candidates.json").read_text())["rows"]
    assert (oracle["explainer"], oracle["control"]) == ("selfie-oracle", "none")
    assert [len(texts) for texts in oracle["texts"].values()] == [5] * 8
    said = {name: {} for name in ("selfie", "selfie-oracle")}
    for item in look(whole).items:
        said.get(item.explainer, {})[item.id] = item.candidates
    for name, (own,) in said["selfie"].items():
        assert own in oracle["texts"][name]
        assert {*said["selfie-oracle"][name]} == {*oracle["texts"][name]}


def test_predictions_hold_the_scores_that_the_means_are_of(whole, scores):
    table = pq.read_table(whole / "predictions.parquet")
    assert table.schema.equals(DESCRIPTIONS.schema)
    assert table.num_rows == 8 * len(ROWS)
    rows = table.to_pylist()
    for row in scores["rows"]:
        own = [
            r for r in rows if (r["explainer"], r["control"]) == (row["explainer"], row["control"])
        ]
        for name, metric in row["metrics"].items():
            column = {"exact_match": "exact"}.get(name, name)
            assert np.mean([r[column] for r in own]) == pytest.approx(metric["value"])
    first = next(r for r in rows if r["explainer"] == "gold")
    assert first["prediction"] == first["answer"] == 'Fires strongly on "k".'
    assert (first["cell"], first["group"]) == ("layer 0", "test family 0")


def test_who_judged_and_what_selfie_chose_is_on_record(scores):
    provenance = scores["provenance"]
    assert provenance["scoring"]["simulator"] == {"name": "built-in"}
    assert provenance["scoring"]["similarity"]["embedder"] in ("tf-idf", "all-MiniLM-L6-v2")
    assert provenance["evaluation"]["baselines"] == BASELINES
    chosen = provenance["baselines"]["selfie"]
    assert chosen["features"] == 12
    best = max(chosen["training_scores"].values())
    assert chosen["training_scores"][f"{chosen['scale']:g}"] == best


def test_shown_features_are_spread_over_the_explainers_score(whole):
    shown = json.loads((whole / "examples.json").read_text())["features"]
    rows = pq.read_table(whole / "predictions.parquet").to_pylist()
    own = {
        r["id"]: r["simulation"]
        for r in rows
        if r["control"] == "none" and r["explainer"] == "tiny"
    }
    levels = [own[feature["id"]] for feature in shown]
    assert len(shown) == 6
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (min(own.values()), max(own.values()))
    assert shown[0]["texts"][0]["pieces"]
    page = (whole / "report.html").read_text()
    assert all(feature["id"] in page for feature in shown)


def test_the_table_shows_every_row_and_what_the_direction_adds(scores):
    table = score_table(scores).splitlines()
    assert table[1].split("  ")[0] == "explainer"
    assert "simulation score" in table[1]
    for name, control in ROWS:
        assert any(line.startswith(name) and control in line for line in table)
    assert "direction lift: " in table[-1]
    assert "points of simulation score over" in table[-1]
    assert max(map(len, table)) < 140


@pytest.mark.parametrize("stop", [2, 5, 8, 13])
def test_a_resumed_evaluation_asks_only_the_rest(explainer, data, whole, tmp_path, calls, stop):
    """4 sets of answers and the untrained model's; 5 lengths on training features, 5 on others."""
    calls.stop = stop
    with pytest.raises(Stop):
        evaluate(explainer, data, tmp_path / "out", QUICK)
    assert not (tmp_path / "out" / "scores.json").exists()
    done, calls.stop = len(calls) - 1, None
    calls.clear()
    evaluate(explainer, data, tmp_path / "out", QUICK)
    assert len(calls) == 5 + 10 - done
    for name in FILES - {"report.html"}:  # which bears the folder's name
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()
    assert not (tmp_path / "out" / ".answers").exists()


def test_a_finished_evaluation_asks_nothing_unless_a_file_is_gone(
    explainer, data, whole, scores, tmp_path, calls
):
    out = shutil.copytree(whole, tmp_path / "out")
    assert evaluate(explainer, data, out, QUICK) == scores
    assert calls == []
    (out / "examples.json").unlink()
    evaluate(explainer, data, out, QUICK)
    assert calls
    assert {file.name for file in out.iterdir()} == FILES


def test_other_texts_to_score_on_are_another_evaluation(
    explainer, feature_trace, whole, tmp_path, calls
):
    out = shutil.copytree(whole, tmp_path / "out")
    trace = feature_trace(tmp_path / "trace")
    (shard,) = trace.glob("test-*.parquet")
    table = pq.read_table(shard)
    texts = table["excerpts"].to_pylist()
    texts[0][0]["activations"][3] += 1
    column = table.schema.get_field_index("excerpts")
    import pyarrow as pa

    changed = pa.array(texts, table.schema.field(column).type)
    pq.write_table(table.set_column(column, table.schema.field(column), changed), shard)
    evaluate(explainer, trace, out, QUICK)
    assert calls


def test_some_baselines_only(explainer, data, tmp_path, calls):
    few = Evaluation(("zero",), ("gold", "selfie"), 4, QUICK.max_new_tokens, QUICK.batch_size)
    scores = evaluate(explainer, data, tmp_path / "out", few)
    names = [(row["explainer"], row["control"]) for row in scores["rows"]]
    assert names == [("tiny", "none"), ("tiny", "zero"), ("gold", "none"), ("selfie", "none")]
    assert calls == ["answer"] * 2 + ["selfie"] * 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Evaluation(baselines=("majority-per-cell",)), "'majority-per-cell'.*\n.*nearest-dot"),
        (Evaluation(baselines=("nearest",)), "'nearest'"),
        (Evaluation(simulator="no/such/model.gguf"), "no/such/model.gguf"),
    ],
)
def test_settings_that_cannot_be(explainer, data, tmp_path, settings, message):
    with pytest.raises(SelfxError, match=message):
        evaluate(explainer, data, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_verdicts_have_no_simulator(explainer, planted_trace, tmp_path):
    trace = planted_trace(tmp_path / "trace", train=4, test=4)
    with pytest.raises(SelfxError, match="simulator some/model for verdicts"):
        evaluate(explainer, trace, tmp_path / "out", Evaluation(simulator="some/model"))
    with pytest.raises(SelfxError, match="baseline 'gold'"):
        evaluate(explainer, trace, tmp_path / "out", Evaluation(baselines=("gold",)))


def test_one_page_for_tasks_of_both_kinds(explainer, planted_trace, whole, tmp_path):
    trace = planted_trace(tmp_path / "trace", train=4, test=4)
    few = Evaluation(("zero",), ("majority",), 0, QUICK.max_new_tokens, QUICK.batch_size)
    evaluate(explainer, trace, tmp_path / "other", few)
    folders = [load_evaluation(folder) for folder in (tmp_path / "other", whole)]
    page = write_report(tmp_path / "page.html", folders).read_text()
    for words in ("At a glance", "How often the output changed", "Scores by layer"):
        assert page.count(words) == 1
