"""Scripts that stand alone, each run once, tiny: that their parts fit, and what they keep."""

import gzip
import importlib.util
import json

import numpy as np
import pytest

from experiments import describer, explainers, sae, warm_up, whole_path, write_text
from experiments.tiny import tiny_world
from selfx import data
from selfx.errors import SelfxError
from selfx.evaluation.run import Evaluation
from selfx.explainer.training import Training

ASKED = Evaluation(("zero",), ("majority",), limit=4, max_new_tokens=2, confidence=False)
FEW = Training(epochs=0.1, batch_size=4, rank=2, targets=("q",), style="plain", held_out=0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def places(tmp_path):
    return {"work": tmp_path / "work", "keep": tmp_path / "keep"}


def kept(places, *parts):
    """What was kept, which names no folder of this machine."""
    text = places["keep"].joinpath(*parts).read_text()
    assert str(places["work"].parent) not in text
    return json.loads(text)


def test_the_whole_path(world, places):
    whole_path.main(
        whole_path.Config(
            "activation-patching",
            "patching",
            world.facts,
            world.model,
            limit=12,
            option=("test_share=0.4", "chunks=2"),
            training=FEW,
            evaluation=ASKED,
            **places,
        )
    )
    scores = kept(places, "patching", "scores.json")
    assert [row["control"] for row in scores["rows"]] == ["none", "zero", "none"]
    assert kept(places, "patching", "config.json")["data"] == "facts.jsonl"
    assert (places["keep"] / "patching" / "metrics.jsonl").read_text()


def test_the_warm_up(world, places):
    warm_up.main(
        warm_up.Config(
            world.facts,
            world.model,
            questions=24,
            ask="here",
            patches=16,
            chunks=2,
            steps=1,
            epochs=0.3,
            evaluation=ASKED,
            arms=("warm-up", "after the warm-up", "mixed"),
            **places,
        )
    )
    tasks = [kept(places, f"{n}.json")["task"] for n in ("warm-up", "after-the-warm-up", "mixed")]
    assert tasks == ["activation-reading", "activation-patching", "activation-patching"]
    after = kept(places, "after-the-warm-up.json")["provenance"]["training"]
    assert after["start"] == "run-warm-up"


def test_the_ways_to_read(world, places):
    """One way in twice is one row with two lifts."""
    explainers.main(
        explainers.Config(
            world.model, limit=24, steps=1, batch_size=4, test=4, arms=("embedding",), **places
        )
    )
    (row,) = kept(places, "scores.json")["rows"]
    assert row["arm"] == "embedding"
    assert len(row["lift_by_seed"]) == 2
    lift = row["scores"]["none"]["value"] - row["scores"]["zero"]["value"]
    assert row["scores"]["lift"]["value"] == pytest.approx(lift)


def test_the_describer(world, tmp_path):
    config = describer.Config(
        data.text_path(), model=world.model, each=1, kept=4, others=2, keep=tmp_path
    )
    describer.main(config)
    found = json.loads((tmp_path / "describer" / "scores.json").read_text())
    assert found["none"]["all"]["features"] == found["noisy"]["all"]["features"] > 5
    clean = found["none"]["all"]
    assert clean["named"] <= clean["recovered"]
    assert clean["described"]["mean"] > clean["others"]["mean"]


def test_the_dictionaries(world, tmp_path):
    """Beside torch's, from the same start and batches, where torch is installed."""
    rival = importlib.util.find_spec("torch") is not None
    found = sae.main(
        sae.Config(
            data.text_path(),
            model=world.model,
            layers=(0, 1),
            widths=(48,),
            k=4,
            tokens=2048,
            batch_size=256,
            context=32,
            limit=200,
            eval_rows=16,
            rival=rival,
            keep=tmp_path / "saes",
            results=tmp_path,
        )
    )
    assert len([*(tmp_path / "saes").iterdir()]) == len(found["saes"]) == 2
    for row in found["saes"]:
        assert 0 < row["selfx"]["fvu"] < 1
        if rival:
            assert row["torch"]["fvu"] == pytest.approx(row["selfx"]["fvu"], abs=2e-3)
    assert json.loads((tmp_path / "sae" / "scores.json").read_text())["saes"] == found["saes"]


def test_a_rival_that_is_not_installed_is_told_before_any_work(world, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SelfxError, match="torch, which is not installed"):
        sae.main(sae.Config(data.text_path(), model=world.model, results=tmp_path))
    assert not [*tmp_path.iterdir()]


def test_text_of_its_own(world, tmp_path):
    out = tmp_path / "text.jsonl.gz"
    write_text.main(write_text.Config(out, world.model, texts=3, tokens=4, batch_size=2))
    lines = [json.loads(line) for line in gzip.decompress(out.read_bytes()).splitlines()]
    assert 1 <= len(lines) <= 3
    assert np.all([set(line) == {"text"} for line in lines])
