"""A run that was stopped and gone on with is the run that never stopped, to the bit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.run import Run
from selfx.explainer.training import Training

pytestmark = pytest.mark.usefixtures("short_questions")

SETTINGS = Training(
    epochs=11,
    batch_size=8,
    rank=4,
    style="plain",
    optimization=Optimization(3e-3, "linear", 2),
    held_out=0.25,
    evaluate_every=5,
)
EVERY = {"save_every": 4, "log_every": 3}
STEPS = 11
VARIANTS = {
    "all weights": {"trains": ("full",)},
    "a reader": {"trains": ("scale", "bias", "low_rank"), "reader_rank": 4},
    "parts and dropout": {"accumulate": 2, "dropout": 0.2},
    "patience": {
        "epochs": 40,
        "patience": 3,
        "evaluate_every": 3,
        "optimization": Optimization(0.3, warmup=40),
    },
    "a mixture": {"epochs": 4, "batch_size": 4},
}


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    """Twelve examples, of which four are watched: one batch of eight an epoch."""
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=12, test=8)


@pytest.fixture(scope="module")
def other(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "other", train=8, test=2, seed=3)


@pytest.fixture(scope="module")
def train(tiny_lm, data):
    """A function: the same training, into a folder."""

    def run(out, training=SETTINGS, folders=(), **more):
        return fit(tiny_lm, folders or [data], out, training, **{**EVERY, **more})

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return out


class Stop(Exception):
    pass


def stop_at(step):
    """A report that ends the run once `step` steps are done, before that step is saved."""

    def report(done, total, note):
        if done >= step:
            raise Stop

    return report


def result(run):
    """Everything that a run leaves but the two folders that hold times."""
    files = (p for p in sorted(run.rglob("*")) if p.is_file())
    found = {str(p.relative_to(run)): p.read_bytes() for p in files}
    return {k: v for k, v in found.items() if not k.startswith(("checkpoints/", "tensorboard/"))}


def same(run, whole):
    one, other = result(run), result(whole)
    assert {"config.json", "metrics.jsonl"} < set(other)
    assert any(name.startswith(("adapter/", "model/")) for name in other)
    assert [n for n in {*one, *other} if one.get(n) != other.get(n)] == []


@pytest.mark.parametrize(
    ("stops", "resumed"),
    [
        ([5, 9], 8),
        ([11], 8),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (([4], 0), ([8], 4))),
    ],
)
def test_stopped_and_resumed_is_equal_to_the_bit(train, whole, tmp_path, stops, resumed):
    for stop in stops:
        with pytest.raises(Stop):
            train(tmp_path / "run", report=stop_at(stop))
        assert not (tmp_path / "run" / "adapter").exists()
    assert train(tmp_path / "run").resumed_at == resumed
    same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    "name",
    [
        "parts and dropout",
        pytest.param("a mixture", marks=pytest.mark.slow),
        pytest.param("all weights", marks=pytest.mark.slow),
        pytest.param("a reader", marks=pytest.mark.slow),
        pytest.param("patience", marks=pytest.mark.slow),
    ],
)
def test_whatever_is_trained_and_however(train, data, other, tmp_path, name):
    training = dataclasses.replace(SETTINGS, **VARIANTS[name])
    more = {"folders": [data, other], "times": (0.5, 1.75)} if name == "a mixture" else {}
    done = train(tmp_path / "whole", training, **more)
    assert 9 < done.steps < 40
    for stop in (6, 9):
        with pytest.raises(Stop):
            train(tmp_path / "run", training, report=stop_at(stop), **more)
    again = train(tmp_path / "run", training, **more)
    assert again.resumed_at == 8
    same(tmp_path / "run", tmp_path / "whole")
    assert dataclasses.replace(again, path="", resumed_at=0, seconds=0) == dataclasses.replace(
        done, path="", seconds=0
    )
    before = result(tmp_path / "run")
    told = []
    finished = train(tmp_path / "run", training, report=lambda *some: told.append(some), **more)
    assert (finished.steps, told) == (done.steps, []), "what is finished does nothing again"
    assert result(tmp_path / "run") == before


def test_stopped_between_the_last_step_and_the_result(train, whole, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise Stop

    monkeypatch.setattr(Run, "save_result", stop)
    with pytest.raises(Stop):
        train(tmp_path / "run")
    monkeypatch.undo()
    assert train(tmp_path / "run").resumed_at == STEPS
    same(tmp_path / "run", whole)


def test_a_line_logged_after_the_checkpoint_is_not_logged_twice(train, whole, tmp_path):
    """The log is written before the checkpoint: a kill between the two leaves lines too many."""
    with pytest.raises(Stop):
        train(tmp_path / "run", report=stop_at(7))
    log = tmp_path / "run" / "metrics.jsonl"
    with log.open("a") as file:
        file.write((whole / "metrics.jsonl").read_text().splitlines()[2] + "\n")
        file.write('{"step": 8, "epo')
    train(tmp_path / "run")
    same(tmp_path / "run", whole)


def test_a_line_is_the_mean_of_the_steps_since_the_last_wherever_it_was_stopped(
    train, whole, tmp_path
):
    """Between a checkpoint at step 4 and a line at step 6 lie steps of both sides of a stop."""
    each = train(tmp_path / "each", log_every=1)
    lines = [json.loads(x) for x in (tmp_path / "each" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, each.steps + 1))
    losses = {line["step"]: line["loss"] for line in lines}
    last = 0
    for line in map(json.loads, (whole / "metrics.jsonl").read_text().splitlines()):
        since = [losses[step] for step in range(last + 1, line["step"] + 1)]
        np.testing.assert_allclose(line["loss"], np.mean(since), rtol=1e-12)
        last = line["step"]


@pytest.fixture
def halfway(train, tmp_path):
    """A run with checkpoints of steps 4 and 8."""
    with pytest.raises(Stop):
        train(tmp_path / "run", report=stop_at(9))
    return tmp_path / "run"


def spoil_all(step):
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(train, whole, halfway):
    spoil_all(halfway / "checkpoints" / "8")
    with pytest.warns(UserWarning, match="checkpoint of step 8"):
        done = train(halfway)
    assert done.resumed_at == 4
    same(halfway, whole)


def test_a_checkpoint_cut_off_while_it_was_written_does_not_count(train, whole, halfway):
    """Orbax writes beside and renames: what has not got its name yet is no checkpoint."""
    steps = halfway / "checkpoints"
    name = next(p for p in steps.iterdir() if p.name == "8").name
    shutil.move(steps / name, steps / f"{name}.orbax-checkpoint-tmp-1700000000000000")
    assert train(halfway).resumed_at == 4
    same(halfway, whole)


def test_a_checkpoint_of_another_rank_is_refused(train, halfway):
    config = json.loads((halfway / "config.json").read_text())
    config["training"]["rank"] = 2
    (halfway / "config.json").write_text(json.dumps(config))
    with pytest.raises(SelfxError, match="cannot be read"):
        train(halfway, dataclasses.replace(SETTINGS, rank=2))
