import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import VERDICTS
from selfx.evaluation.answers.metrics import METRICS
from selfx.evaluation.answers.scoring import Answered, Sure
from selfx.evaluation.scores import (
    build_scores,
    write_evaluation,
    write_predictions,
    write_scores,
)
from selfx.evaluation.table import score_table


@pytest.fixture
def examples(example):
    return [example(i, i % 2 == 0, f"word{i}", cell="ab"[i % 3 == 0]) for i in range(40)]


@pytest.fixture
def runs(examples):
    """An explainer that is always right, its controls (half, a quarter, no text), a baseline."""

    def right(every):
        return [e.answer if i % every == 0 else "hm" for i, e in enumerate(examples)]

    return [
        Answered("majority", "none", right(40)),
        Answered("self", "none", right(1)),
        Answered("self", "zero", right(4)),
        Answered("self", "rotated", right(2)),
        Answered("self", "no-text", right(1)),
    ]


def test_scores_have_the_agreed_keys_and_numbers(examples, runs):
    scores = build_scores(
        examples, runs, target="tiny", resamples=200, provenance={"weights": "ab"}
    )
    asked = ["task", "target", "n", "headline", "rows", "lift"]
    assert list(scores) == [*asked, "paired", "released", "provenance"]
    assert (scores["task"], scores["target"], scores["n"]) == ("activation-patching", "tiny", 40)
    assert scores["headline"] == "exact_match"
    assert [set(row) for row in scores["rows"]] == [{"explainer", "control", "metrics"}] * 5
    assert all(list(row["metrics"]) == list(METRICS) for row in scores["rows"])
    values = [row["metrics"]["exact_match"]["value"] for row in scores["rows"]]
    assert values == [1 / 40, 1.0, 0.25, 0.5, 1.0]
    half = scores["rows"][3]["metrics"]["parsed"]
    assert half["low"] < half["value"] == 0.5 < half["high"]
    assert scores["provenance"]["weights"] == "ab"
    assert scores["provenance"]["intervals"]["resamples"] == 200


def test_the_lift_is_over_the_best_control_of_the_vector(examples, runs):
    lift = build_scores(examples, runs, target="tiny", resamples=200)["lift"]
    assert (lift["explainer"], lift["control"]) == ("self", "rotated")
    change = lift["metrics"]["exact_match"]
    assert change["value"] == 0.5
    assert 0.3 < change["low"] < 0.5 < change["high"] < 0.7


def test_the_lift_says_how_likely_chance_is_and_how_small_a_lift_could_be_seen(examples, runs):
    """Twenty of forty answers differ, all one way: only two in 2**20 swaps do as much."""
    lift = build_scores(examples, runs, target="tiny", resamples=2000)["lift"]
    assert lift["test"] == {"p": pytest.approx(1e-4, abs=1e-4), "clusters": 20, "exact": False}
    assert set(lift["smallest"]) == set(METRICS)
    expected = 2.87 * (0.25 / 40) ** 0.5  # both reaches of t with 39 degrees of freedom
    assert lift["smallest"]["exact_match"] == pytest.approx(expected, rel=0.06)


def test_the_table_says_what_a_lift_of_nothing_is_worth(examples, runs):
    """Two right answers more, two less: the interval holds 0, so the power is told."""
    right, half = runs[1].answers, runs[3].answers
    other = ["hm", right[1], "hm", right[3], *half[4:]]
    answered = [Answered("self", "none", half), Answered("self", "zero", other)]
    scores = build_scores(examples, answered, target="tiny", resamples=500)
    least = scores["lift"]["smallest"]["exact_match"]
    change = scores["lift"]["metrics"]["exact_match"]
    assert change["low"] <= 0 <= change["high"]
    assert f"could have seen is {100 * least:.1f} points" in score_table(scores)
    clear = score_table(build_scores(examples, runs, target="tiny", resamples=500))
    assert "could have seen" not in clear


def test_the_explainer_is_held_against_every_other_row(examples, runs):
    """On the headline score; one that answers alike does not differ, and nobody knows the power."""
    paired = build_scores(examples, runs, target="tiny", resamples=100)["paired"]
    names = [(each["explainer"], each["control"]) for each in paired]
    assert names == [(r.explainer, r.control) for r in runs if r is not runs[1]]
    differences = [each["metrics"]["exact_match"]["value"] for each in paired]
    assert differences == pytest.approx([39 / 40, 0.75, 0.5, 0])
    assert paired[-1]["test"] == {"p": 1.0, "clusters": 0, "exact": True}
    assert paired[-1]["smallest"] == {"exact_match": None}


def test_the_released_rules_stand_beside_ours(examples, runs):
    """An answer that only our rules take for exact."""
    loose = replace(runs[1], answers=[f"Well: {text}" for text in runs[1].answers])
    scores = build_scores(examples, [loose], target="tiny", resamples=20)
    (ours,), (theirs,) = scores["rows"], scores["released"]
    assert (theirs["explainer"], theirs["control"]) == ("self", "none")
    values = [each["metrics"]["exact_match"]["value"] for each in (ours, theirs)]
    assert values == [1.0, 0.0]
    assert theirs["metrics"]["content_match"]["value"] == 1.0


def test_confidence_is_kept_and_measured(tmp_path, examples, runs):
    """In the predictions row by row, in the scores as calibration, for each control it is of."""
    half = np.full(40, 0.5)
    sure = Sure(half, {"platt": np.full(40, 0.9)}, {"on": "others", "n": 30})
    answered = [runs[0], replace(runs[1], sure=sure), replace(runs[3], sure=Sure(half)), runs[2]]
    scores = write_evaluation(tmp_path, examples, answered, target="tiny", resamples=20)
    kept = pq.read_table(tmp_path / "predictions.parquet")["confidence"].to_pylist()
    assert kept == [None] * 40 + [0.5] * 80 + [None] * 40
    found = scores["calibration"]
    assert list(found) == ["headline", "of", "none", "fitted", "rotated"]
    assert found["fitted"] == {"on": "others", "n": 30}
    errors = {name: each["metrics"]["ece"]["value"] for name, each in found["none"].items()}
    assert errors == {"as said": pytest.approx(0.5), "platt": pytest.approx(0.1)}
    assert found["rotated"]["as said"]["metrics"]["ece"]["value"] == pytest.approx(0)
    assert found["rotated"]["as said"]["bins"][0]["count"] == 40


def test_without_a_control_of_the_vector_there_is_no_lift(examples, runs):
    for kept in (runs[:2], [runs[1], runs[4]], runs[2:4]):
        assert build_scores(examples, kept, target="tiny", resamples=20)["lift"] is None


def test_predictions_hold_every_answer(tmp_path, examples, runs):
    write_predictions(tmp_path / "p.parquet", examples, runs)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.equals(VERDICTS.schema)
    assert len(table) == 5 * 40
    unread, read = table.slice(40 * 2 + 1, 1).to_pylist()[0], table.slice(40, 1).to_pylist()[0]
    assert read == {
        "id": "e0",
        "explainer": "self",
        "control": "none",
        "question": examples[0].question,
        "answer": examples[0].answer,
        "prediction": examples[0].answer,
        "changed": True,
        "content": "word0",
        "predicted_changed": True,
        "predicted_content": "word0",
        "parsed": True,
        "exact": True,
        "group": "g0",
        "cell": "b",
        "confidence": None,
    }
    assert (unread["control"], unread["prediction"]) == ("zero", "hm")
    assert (unread["predicted_changed"], unread["predicted_content"]) == (None, None)
    assert (unread["parsed"], unread["exact"]) == (False, False)


def test_half_characters_of_a_model_can_be_written(tmp_path, examples):
    write_predictions(
        tmp_path / "p.parquet", examples[:1], [Answered("self", "none", ["\ud83d é"])]
    )
    assert pq.read_table(tmp_path / "p.parquet")["prediction"].to_pylist() == ["? é"]


def test_writes_the_folder(tmp_path, examples, runs):
    scores = write_evaluation(
        tmp_path / "new" / "folder", examples, runs, target="tiny", resamples=20
    )
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.parquet", "scores.json"]
    assert json.loads((folder / "scores.json").read_text()) == scores


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(path, {"n": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_scores(path, {"n": float("nan")})
    assert json.loads(path.read_text()) == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_mistakes_raise(tmp_path, examples, runs):
    with pytest.raises(SelfxError, match="no examples"):
        build_scores([], runs, target="tiny")
    with pytest.raises(SelfxError, match="39 answers to 40"):
        build_scores(examples, [replace(runs[0], answers=runs[0].answers[1:])], target="tiny")
    with pytest.raises(SelfxError, match="twice for self under zero"):
        build_scores(examples, [*runs, runs[2]], target="tiny")
    mixed = [examples[0], replace(examples[1], task="input-ablation")]
    with pytest.raises(SelfxError, match="activation-patching, input-ablation"):
        write_evaluation(tmp_path, mixed, [], target="tiny")
    assert list(tmp_path.iterdir()) == []
