"""The scripts of the paper's tables and figures, run whole on tiny models, and their parts.

One folder for all: a script finds the traces, runs and scores that another has left.
"""

import dataclasses
import importlib
import json

import numpy as np
import pyarrow as pa
import pytest

from experiments.paper import (
    activation_patching,
    cross_model,
    data_scaling,
    input_ablation,
    out_of_distribution,
    similarity,
    withheld,
)
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.scales import SCALES, setup
from experiments.paper.traces import part
from selfx.errors import SelfxError
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING
from selfx.tasks.store import load_examples

SCRIPTS = (
    "activation_patching",
    "cross_model",
    "data_scaling",
    "feature_descriptions",
    "input_ablation",
    "out_of_distribution",
    "similarity",
    "withheld",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def config(place):
    def make(script, **settings):
        where = {"work": place / "work", "keep": place / "keep"}
        return script.Config(scale="tiny", **where, **settings)

    return make


def kept(place, *parts):
    return json.loads((place / "keep" / "tiny").joinpath(*parts).read_text())


def test_activation_patching_has_self_cross_and_blind_with_their_controls(config, place):
    found = activation_patching.main(config(activation_patching))
    assert [*found] == ["tiny-seed-0", "second-seed-0", "tiny-seed-0-blind"]
    summary = kept(place, "activation_patching", "summary.json")
    assert {"none", "zero", "no-layer"} <= summary[0]["scores"].keys()
    assert summary[0]["lift"]["over"] == "zero"
    blind = kept(place, "activation_patching", "tiny-seed-0-blind.json")
    assert blind["provenance"]["training"]["blind"]
    own = kept(place, "activation_patching", "tiny-seed-0.json")
    assert "text-only" in {row["control"] for row in own["rows"]}
    report = (place / "keep" / "tiny" / "activation_patching" / "report.html").read_text()
    assert all(name in report for name in found)
    whole = "".join(path.read_text() for path in (place / "keep").rglob("*.*"))
    assert str(place) not in whole


def test_what_one_script_left_another_finds(config, place, monkeypatch):
    """Nothing is trained or asked again; the losses are those of the scores, of a model by itself
    and of one whose answers do not depend on the vector they are nothing."""
    from experiments.paper import arms

    trained = []
    real = arms.fit
    monkeypatch.setattr(
        arms, "fit", lambda *a, **k: trained.append(real(*a, **k).resumed_at) or real(*a, **k)
    )
    worth = withheld.main(config(withheld, explainers=("tiny",)))
    assert trained == [1, 1, 0, 0]
    anew = {f"{part} in training" for part in ("an activation", "a layer", "a token")}
    assert {one["without"] for one in worth} == {"zero", "no-layer", *anew}
    told = {
        name: kept(place, "withheld", PATCHING, f"tiny-seed-0{name}.json")
        for name in ("", "-without-token")
    }
    assert [one["provenance"]["training"]["withhold"] for one in told.values()] == [[], ["token"]]
    scores = kept(place, "withheld", PATCHING, "summary.json")[0]["scores"]
    for one in worth:
        if one["without"] in scores:
            lost = scores["none"]["value"] - scores[one["without"]]["value"]
            assert one["loss"]["value"] == pytest.approx(lost)
    points = similarity.main(config(similarity, places=200))["points"]
    assert trained == [1, 1, 0, 0, 1, 1]
    by_itself, by_another = points
    assert by_itself["cka"]["mean"] == pytest.approx(1, abs=1e-5)
    assert by_itself["cosine"]["mean"] == pytest.approx(1, abs=1e-5)
    assert by_another["cka"]["mean"] < 0.95
    assert abs(by_another["cosine"]["mean"]) < 0.5
    assert kept(place, "similarity", PATCHING, "points.json")["spearman"]["cka"]["n"] == 2


def test_shares_of_the_training_data_make_a_curve(config, place):
    settings = {"task": PATCHING, "explainers": ("tiny",), "shares": (1.0, 0.5)}
    half, whole = data_scaling.main(config(data_scaling, **settings))
    assert half["examples"] < whole["examples"]
    assert [one["share"] for one in (half, whole)] == [0.5, 1.0]
    assert "nearest-vector" in half["baselines"]


def test_the_matrix_of_input_ablation_has_every_model_by_every_model(config, place):
    found = cross_model.main(config(cross_model, task=ABLATION))
    cells = {(one["target"], one["explainer"]) for one in found["cells"]}
    assert cells == {(a, b) for a in ("tiny", "second") for b in ("tiny", "second")}
    assert [(one["target"], one["other"]) for one in found["differences"]] == [
        ("tiny", "second"),
        ("second", "tiny"),
    ]
    found = input_ablation.main(config(input_ablation, soften=0.5))
    assert [*found] == ["tiny-seed-0", "second-seed-0", "tiny-seed-0-soft-0.5"]
    by_itself, by_another, by_shares = found.values()
    assert by_shares["provenance"]["training"]["soften"] == 0.5
    assert by_itself["provenance"]["training"]["soften"] == 0.0
    assert {row["control"] for row in by_itself["rows"]} == {"none", "no-hint"}
    told = kept(place, "cross_model", ABLATION, "tiny", "second-seed-0.json")
    assert [row["metrics"] for row in told["rows"]] == [
        row["metrics"] for row in by_another["rows"]
    ]


def test_an_explainer_of_features_is_asked_of_what_is_none(config, place):
    found = out_of_distribution.main(config(out_of_distribution, explainers=("tiny",)))
    assert [*found] == ["tiny-seed-0", "tiny-seed-0-asked-differences"]
    features, differences = found.values()
    assert features["provenance"]["training"] == differences["provenance"]["training"]
    assert differences["provenance"]["trace"]["settings"]["directions"] == "differences"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_lists_jobs_and_touches_no_model(name, scale, tmp_path, capsys):
    script = importlib.import_module(f"experiments.paper.{name}")
    of_features = name in ("feature_descriptions", "out_of_distribution", "data_scaling")
    config = script.Config(scale=scale, dry_run=True, work=tmp_path, keep=tmp_path / "keep")
    if scale == "paper-qwen" and of_features:
        with pytest.raises(SelfxError, match="feature-description at paper-qwen"):
            script.main(config)
        return
    assert not script.main(config)
    told = capsys.readouterr().out
    assert "train " in told
    assert "h  in all" in told
    assert not (tmp_path / "keep").exists()


def test_the_paper_is_trained_as_its_released_configurations_say(tmp_path):
    """Written out from the released configurations, not taken from ours."""
    rows = {
        ("paper-llama", PATCHING, "Llama-3.1-8B"): ("lora", 32, 20, 5e-5, "plain"),
        ("paper-llama", PATCHING, "Qwen3-8B"): ("lora", 32, 10, 5e-5, "chat"),
        ("paper-qwen", PATCHING, "Qwen3-8B"): ("lora", 32, 20, 5e-5, "chat"),
        ("paper-qwen", ABLATION, "Qwen3-8B"): ("full", 8, 20, 1e-5, "chat"),
        ("paper-llama", ABLATION, "Llama-3.1-8B-Instruct"): ("full", 8, 30, 1e-5, "chat"),
        ("paper-llama", ABLATION, "Qwen3-8B"): ("full", 8, 30, 1e-5, "chat"),
        ("paper-llama", FEATURES, "Llama-3.1-8B"): ("full", 64, 10, 5e-5, "plain"),
        ("paper-llama", FEATURES, "Llama-3.1-70B"): ("lora", 48, 10, 5e-5, "plain"),
    }
    for (scale, task, name), told in rows.items():
        found = setup(scale, task, tmp_path)
        (model,) = found.chosen((name,))
        training = found.training(model, seed=3)
        training.check()
        own = (training.trains[0], training.batch_size, training.epochs)
        assert (*own, training.optimization.learning_rate, training.style) == told
        assert training.optimization.schedule == "constant"
        assert training.optimization.weight_decay == 0.01
        assert training.injection == "embedding"
        assert training.seed == 3
        if training.trains[0] == "lora":
            assert (training.rank, training.alpha, training.dropout) == (128, 16, 0.1)
            assert training.lora_scale == 0.125
        wide = model.width != 4096
        assert training.projection == ("kaiming" if wide else "")
        assert ("projection" in training.trains) == wide


def test_who_cannot_be_asked_is_named(tmp_path):
    found = setup("paper-llama", PATCHING, tmp_path)
    with pytest.raises(SelfxError, match="explainer 'Gemma'") as error:
        found.chosen(("Gemma",))
    assert "Qwen3-8B" in error.value.expected
    bench = Bench(Common("paper-llama", released=True, work=tmp_path), found)
    assert bench.released(found.models[0]) == (
        "meta-llama/Llama-3.1-8B+Transluce/act_patch_llama3.1_8b_llama3.1_8b"
    )
    with pytest.raises(SelfxError, match="a released explainer of Llama-3.1-8B from Qwen3-8B"):
        bench.released(found.models[1])
    with pytest.raises(SelfxError, match="scale 'large'"):
        setup("large", PATCHING, tmp_path)


def test_a_share_keeps_groups_whole_and_a_larger_one_holds_it(planted_trace, tmp_path):
    folder = planted_trace(tmp_path / "whole")
    some, more = (part(folder, share, tmp_path / f"{share}") for share in (0.25, 0.5))
    ids = [{e.id for e in load_examples(at, "train")} for at in (some, more, folder)]
    assert [len(each) for each in ids] == [12, 24, 48]
    assert ids[0] < ids[1] < ids[2]
    groups = [{e.group for e in load_examples(at, "train")} for at in (some, more)]
    assert [len(each) for each in groups] == [3, 6]
    tests = [[e.id for e in load_examples(at, "test")] for at in (some, folder)]
    assert tests[0] == tests[1]
    assert part(folder, 1.0, tmp_path / "none") == folder
    assert pa.parquet.read_schema(some / "train-00000.parquet").names[0] == "layer"


def test_alignment_is_that_of_the_formula_in_features():
    """Linear CKA by products of features, as published, against ours by products of examples."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 7)) + 3
    turned = 5 * x @ np.linalg.qr(rng.standard_normal((7, 7)))[0] + 1
    other = np.concatenate([x[:, :3], rng.standard_normal((60, 8))], axis=1)

    def by_features(a, b):
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        cross = np.linalg.norm(b.T @ a) ** 2
        return cross / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))

    assert similarity.cka(x, turned) == pytest.approx(1)
    assert similarity.cka(x, other) == pytest.approx(by_features(x, other))
    assert similarity.cka(x, other) < 0.9
    assert similarity.cka(x, np.ones((60, 2))) == 0


def test_similarity_goes_with_score_by_ranks():
    points = [
        {"cka": {"mean": alike}, "score": score}
        for alike, score in ((0.9, 0.5), (0.2, 0.1), (0.5, 0.2), (0.7, 0.6))
    ]
    found = similarity.together(points)
    assert found["cka"]["rho"] == pytest.approx(0.8)
    assert found["cosine"]["n"] == 0


def test_arms_that_differ_have_folders_that_differ(tmp_path):
    found = setup("paper-llama", FEATURES, tmp_path)
    model = found.models[0]
    arms = [
        Arm(model),
        Arm(model, seed=1),
        Arm(model, share=0.5),
        Arm(model, blind=True),
        Arm(found.models[1]),
    ]
    asked = [dataclasses.replace(arms[0], ask=one) for one in found.outside]
    bench = Bench(Common("paper-llama", work=tmp_path), found)
    assert len({bench.place(arm) for arm in [*arms, *asked]}) == len(arms)
    assert len({bench.scores(arm) for arm in [*arms, *asked]}) == len(arms) + len(asked)
