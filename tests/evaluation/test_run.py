import dataclasses
import json
import shutil

import pyarrow.parquet as pq
import pytest

from selfx.errors import SelfxError
from selfx.evaluation import asked as asking
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.table import score_table
from selfx.explainer.answer import untrained
from selfx.explainer.training import Training

PLAIN = Training(style="plain", seed=1)
CONTROLS = ("zero", "shuffled", "rotated")
BASELINES = ("untrained", "majority", "majority-per-cell", "majority-verdict-per-cell")
QUICK = Evaluation(CONTROLS, BASELINES, max_new_tokens=3, batch_size=8)
ROWS = [
    *[("tiny", control) for control in ("none", *CONTROLS)],
    *[(name, "none") for name in BASELINES],
]


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=12, test=10)


@pytest.fixture(scope="module")
def hints(tmp_path_factory):
    """A trace of input ablation: its questions have no vector."""
    import pyarrow as pa

    from selfx.files import write_json
    from selfx.tasks.schema import ABLATION, SCHEMAS
    from selfx.tasks.store import write_shards

    def row(index, split):
        return {
            "zeroshot_prediction": "ABCD"[index % 4],
            "random_hint_prediction": "B",
            "system_prompt": "Answer.",
            "hint_user_prompt": f"Question {index}?\nHint: I think the answer is (B) but...",
            "id": f"{split}-{index}",
            "group": f"{split}-{index}",
        }

    folder = tmp_path_factory.mktemp("data") / "hints"
    folder.mkdir()
    schema = SCHEMAS[ABLATION]
    rows = {split: [row(i, split) for i in range(4)] for split in ("train", "test")}
    write_shards(folder, schema, {s: [pa.Table.from_pylist(r, schema)] for s, r in rows.items()})
    write_json(folder / "trace.json", {"task": ABLATION, "target": "tiny", "target_hash": "0"})
    return folder


@pytest.fixture(scope="module")
def explainer(tiny_lm):
    return dataclasses.replace(untrained(tiny_lm, PLAIN), name="tiny")


class Stop(Exception):
    pass


@pytest.fixture
def calls(monkeypatch):
    """How often the explainer was asked; `calls.stop = n` ends the run at the nth time."""

    class Calls(list):
        stop = None

    made, real = Calls(), asking.answer

    def counted(explainer, examples, vectors, **more):
        made.append(vectors)
        if len(made) == made.stop:
            raise Stop
        return real(explainer, examples, vectors, **more)

    monkeypatch.setattr(asking, "answer", counted)
    return made


@pytest.fixture(scope="module")
def whole(explainer, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores") / "scores"
    evaluate(explainer, data, out, QUICK)
    return out


def test_the_folder_holds_scores_predictions_and_a_page(whole):
    assert {file.name for file in whole.iterdir()} == {
        "scores.json",
        "predictions.parquet",
        "report.html",
    }
    scores = json.loads((whole / "scores.json").read_text())
    assert scores["task"] == "activation-patching"
    assert (scores["target"], scores["n"]) == ("tiny", 10)
    assert [(row["explainer"], row["control"]) for row in scores["rows"]] == ROWS
    for row in scores["rows"]:
        assert set(row["metrics"]) == {"exact_match", "has_changed_f1", "content_match", "parsed"}
        for metric in row["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
    predictions = pq.read_table(whole / "predictions.parquet")
    assert predictions.num_rows == 10 * len(ROWS)
    assert "<html" in (whole / "report.html").read_text()


def test_what_made_the_scores_travels_with_them(whole, explainer):
    provenance = json.loads((whole / "scores.json").read_text())["provenance"]
    assert provenance["explainer_hash"] == explainer.base.hash
    assert provenance["training"]["style"] == "plain"
    assert provenance["evaluation"]["max_new_tokens"] == 3
    assert provenance["trace"]["target_hash"] == "0" * 64


def test_the_table_shows_every_row(whole):
    scores = json.loads((whole / "scores.json").read_text())
    table = score_table(scores)
    assert "10 held-out questions" in table
    for explainer, control in ROWS:
        assert any(explainer in line and control in line for line in table.splitlines())


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_evaluation_asks_only_the_rest(explainer, data, whole, tmp_path, calls, stop):
    calls.stop = stop
    with pytest.raises(Stop):
        evaluate(explainer, data, tmp_path / "out", QUICK)
    assert not (tmp_path / "out" / "scores.json").exists()
    # what a kill in the middle of writing leaves:
    (tmp_path / "out" / ".answers").mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / ".answers" / ".zero-abc.json.x1y2").write_text('["')
    done, calls.stop = len(calls) - 1, None
    calls.clear()
    evaluate(explainer, data, tmp_path / "out", QUICK)
    assert len(calls) == 5 - done
    for name in ("scores.json", "predictions.parquet", "report.html"):
        ours = (tmp_path / "out" / name).read_bytes()
        theirs = (whole / name).read_bytes()
        assert ours == theirs or name == "report.html"  # which bears the folder's name
    assert not (tmp_path / "out" / ".answers").exists()


def test_a_finished_evaluation_asks_nothing(explainer, data, whole, tmp_path, calls):
    out = shutil.copytree(whole, tmp_path / "out")
    scores = evaluate(explainer, data, out, QUICK)
    assert calls == []
    assert scores == json.loads((whole / "scores.json").read_text())


@pytest.mark.parametrize("missing", ["scores.json", "predictions.parquet", "report.html"])
def test_one_that_lost_a_file_asks_again(explainer, data, whole, tmp_path, calls, missing):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / missing).unlink()
    evaluate(explainer, data, out, QUICK)
    assert len(calls) == 5
    assert (out / missing).exists()


def test_one_of_other_examples_asks_again(explainer, planted_trace, whole, tmp_path, calls):
    out = shutil.copytree(whole, tmp_path / "out")
    evaluate(explainer, planted_trace(tmp_path / "trace", train=12, test=10, seed=5), out, QUICK)
    assert len(calls) == 5


def test_another_seed_finds_what_untrained_models_said(explainer, data, tmp_path, calls):
    """Of what two evaluations have in common one is asked; the folder that they share stays."""
    shared = tmp_path / "answers"
    evaluate(explainer, data, tmp_path / "first", QUICK, answers=shared)
    calls.clear()
    training = dataclasses.replace(explainer.training, seed=7)
    other = dataclasses.replace(explainer, training=training)
    scores = evaluate(other, data, tmp_path / "second", QUICK, answers=shared)
    assert len(calls) == 4
    first = json.loads((tmp_path / "first" / "scores.json").read_text())
    assert scores["rows"] == first["rows"]
    assert shared.exists()


def test_a_blind_one_is_asked_once(explainer, data, tmp_path, calls):
    """Every control of vectors gives it zeros; the model before training is as blind."""
    training = dataclasses.replace(explainer.training, blind=True)
    blind = dataclasses.replace(explainer, training=training)
    scores = evaluate(blind, data, tmp_path / "out", QUICK)
    assert len(calls) == 2
    assert not any(vectors.any() for vectors in calls)
    first, *others = [row["metrics"] for row in scores["rows"][:4]]
    assert others == [first] * 3


@pytest.mark.parametrize("change", [{"max_new_tokens": 2}, {"beams": 2}], ids=str)
def test_answers_kept_of_other_settings_are_not_taken(explainer, data, tmp_path, calls, change):
    calls.stop = 3
    with pytest.raises(Stop):
        evaluate(explainer, data, tmp_path / "out", QUICK)
    calls.stop = None
    calls.clear()
    evaluate(explainer, data, tmp_path / "out", dataclasses.replace(QUICK, **change))
    assert len(calls) == 5


def test_everybody_is_asked_with_as_many_beams(explainer, data, tmp_path, monkeypatch):
    widths, real = [], asking.answer

    def listen(*args, beams, **how):
        widths.append(beams)
        return real(*args, beams=beams, **how)

    monkeypatch.setattr(asking, "answer", listen)
    evaluate(explainer, data, tmp_path / "out", dataclasses.replace(QUICK, beams=3))
    assert widths == [3] * 5


@pytest.mark.parametrize(("soften", "beams"), [(0.0, 1), (0.1, 4)])
def test_one_that_learned_shares_is_asked_for_its_likeliest_answer(
    explainer, data, tmp_path, monkeypatch, soften, beams
):
    widths = []

    def listen(explainer, examples, *args, beams, **how):
        widths.append(beams)
        return [""] * len(examples)

    monkeypatch.setattr(asking, "answer", listen)
    training = dataclasses.replace(explainer.training, soften=soften)
    scores = evaluate(
        dataclasses.replace(explainer, training=training), data, tmp_path / "out", QUICK
    )
    assert widths == [beams] * 4 + [1]  # the model before training has learned no shares
    assert scores["provenance"]["evaluation"]["beams"] == 0


def test_the_model_before_training_is_asked_once_for_all_that_differ_in_training(
    explainer, data, tmp_path, calls
):
    """And again for one that reads in another way."""
    answers, training = tmp_path / "answers", explainer.training
    longer = dataclasses.replace(training, epochs=9.0, rank=4, soften=0.1, seed=7)
    louder = dataclasses.replace(training, strength=3.0)
    asked = []
    for name, other in {"first": training, "longer": longer, "louder": louder}.items():
        calls.clear()
        settings = dataclasses.replace(QUICK, controls=())
        one = dataclasses.replace(explainer, training=other)
        evaluate(one, data, tmp_path / name, settings, answers=answers)
        asked.append(len(calls))
    assert asked == [2, 1, 2]


def test_what_each_control_feeds(explainer, data, tmp_path, calls):
    evaluate(explainer, data, tmp_path / "out", QUICK)
    none, zero, shuffled, rotated, plain = calls
    assert none.any()
    assert not zero.any()
    assert {vectors.shape for vectors in calls} == {(10, 1, 32)}
    assert sorted(map(tuple, shuffled[:, 0])) == sorted(map(tuple, none[:, 0]))
    assert not (shuffled == none).all(axis=(1, 2)).any()
    assert abs((rotated**2).sum(2) - (none**2).sum(2)).max() < 1e-3
    assert (plain == none).all()


def test_some_controls_and_baselines_only(explainer, data, tmp_path, calls):
    few = Evaluation(controls=("zero",), baselines=("majority",), max_new_tokens=1, limit=4)
    scores = evaluate(explainer, data, tmp_path / "out", few)
    names = [(row["explainer"], row["control"]) for row in scores["rows"]]
    assert names == [("tiny", "none"), ("tiny", "zero"), ("majority", "none")]
    assert scores["n"] == 4
    assert {len(vectors) for vectors in calls} == {4}


def test_a_draw_of_test_questions_depends_on_the_seed_alone(explainer, data, tmp_path):
    def ids(seed, name):
        few = Evaluation((), ("majority",), limit=4, max_new_tokens=1, seed=seed)
        evaluate(explainer, data, tmp_path / name, few)
        return set(pq.read_table(tmp_path / name / "predictions.parquet")["id"].to_pylist())

    assert ids(0, "a") == ids(0, "b")
    assert ids(0, "a") != ids(5, "c")


def test_without_vectors_there_is_nothing_to_control(explainer, hints, tmp_path):
    scores = evaluate(explainer, hints, tmp_path / "out", QUICK)
    assert [(r["explainer"], r["control"]) for r in scores["rows"] if r["explainer"] == "tiny"] == [
        ("tiny", "none")
    ]
    assert scores["lift"] is None
    assert scores["task"] == "input-ablation"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Evaluation(controls=("inverted",)), "inverted"),
        (Evaluation(baselines=("oracle",)), "oracle"),
        (Evaluation(limit=-1), "limit"),
        (Evaluation(max_new_tokens=-1), "a negative limit, length"),
        (Evaluation(batch_size=0), "expected"),
        (Evaluation(beams=-1), "number of beams"),
    ],
)
def test_settings_that_cannot_be(explainer, data, tmp_path, settings, message):
    with pytest.raises(SelfxError, match=message):
        evaluate(explainer, data, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_no_test_questions(explainer, planted_trace, tmp_path):
    empty = planted_trace(tmp_path / "trace", train=4, test=0)
    with pytest.raises(SelfxError, match="no test"):
        evaluate(explainer, empty, tmp_path / "out", QUICK)


def test_baselines_need_training_examples(explainer, planted_trace, tmp_path):
    empty = planted_trace(tmp_path / "trace", train=0, test=4)
    with pytest.raises(SelfxError, match="training examples"):
        evaluate(explainer, empty, tmp_path / "out", Evaluation((), ("majority",), 0, 1))
    assert not (tmp_path / "out").exists()  # before any question was asked


def test_an_explainer_of_another_width(explainer, planted_trace, tmp_path):
    wide = planted_trace(tmp_path / "trace", train=4, test=4, width=48)
    with pytest.raises(SelfxError, match="width 48") as caught:
        evaluate(explainer, wide, tmp_path / "out", QUICK)
    assert "32, the width of the target" in caught.value.expected
    assert not (tmp_path / "out").exists()


def test_a_second_evaluation_replaces_the_first(explainer, data, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    few = Evaluation((), ("majority",), limit=4, max_new_tokens=1)
    evaluate(explainer, data, out, few)
    assert json.loads((out / "scores.json").read_text())["n"] == 4
    assert pq.read_table(out / "predictions.parquet").num_rows == 8
