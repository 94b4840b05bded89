"""A run that starts from another: with its weights and no others, or not at all."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.job import prepare
from selfx.explainer.mixture import read_mixture
from selfx.explainer.run import Run
from selfx.explainer.trained import parameters
from selfx.explainer.training import Training

pytestmark = pytest.mark.usefixtures("short_questions")

SHORT = Training(style="plain", rank=2, epochs=2, batch_size=8, held_out=0.0)


@pytest.fixture(scope="module")
def data(planted_trace, tmp_path_factory):
    return planted_trace(tmp_path_factory.mktemp("data") / "trace", train=8, test=4)


@pytest.fixture(scope="module")
def narrow(planted_trace, tmp_path_factory):
    """Vectors of width 20."""
    folder = tmp_path_factory.mktemp("data") / "narrow"
    return planted_trace(folder, train=8, test=4, width=20)


@pytest.fixture(scope="module")
def runs(tiny_lm, data, narrow, tmp_path_factory):
    """A function: the finished run of some settings, made once."""
    made = {}

    def run(**settings):
        training = dataclasses.replace(SHORT, **settings)
        if training not in made:
            made[training] = tmp_path_factory.mktemp("runs") / "run"
            folder = narrow if training.projection else data
            fit(tiny_lm, [folder], made[training], training)
        return made[training]

    return run


def job_of(lm, folder, start, **settings):
    training = dataclasses.replace(SHORT, start=str(start), seed=1, **settings)
    return prepare(lm, read_mixture([folder], (), lm.config), training)


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trains": ("full",)},
        {"trains": ("scale", "bias")},
        {"trains": ("lora", "low_rank"), "reader_rank": 3},
        {"targets": ("q", "v"), "rslora": True},
    ],
    ids=str,
)
def test_at_step_0_it_is_the_run_that_it_starts_from(tiny_lm, data, runs, settings):
    before = Run(runs(**settings)).load_result()
    job = job_of(tiny_lm, data, runs(**settings), **settings)
    equal(job.trained, before)
    fresh = job_of(tiny_lm, data, "", **settings)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), job.trained, fresh.trained)
    assert all(jax.tree.leaves(moved))


def test_more_may_be_trained_than_before(tiny_lm, data, runs):
    """What is new starts as it would without an earlier run."""
    first, trains = runs(), ("lora", "scale", "bias")
    job = job_of(tiny_lm, data, first, trains=trains)
    equal(job.trained.lora, Run(first).load_result().lora)
    equal(job.trained.reader, job_of(tiny_lm, data, "", trains=trains).trained.reader)


def test_what_is_trained_no_longer_stays_as_it_was(tiny_lm, data, runs):
    """A bias is learned first, then adapters under it."""
    first = runs(trains=("lora", "bias"))
    job = job_of(tiny_lm, data, first)
    assert job.trained.reader is None
    before = Run(first).load_result()
    equal(job.trained.lora, before.lora)
    equal(job.frozen.reader, before.reader)
    both = job_of(tiny_lm, data, first, trains=("lora", "scale"))
    assert list(both.trained.reader.given) == ["scale"]
    equal(both.frozen.reader.bias, before.reader.bias)


def test_a_projection_that_was_drawn_goes_on(tiny_lm, narrow, runs):
    """Not one drawn anew from this run's own seed; and it may be trained from there on."""
    first = runs(projection="random")
    before = Run(first).load_result().reader.projection
    job = job_of(tiny_lm, narrow, first, projection="random")
    np.testing.assert_array_equal(job.frozen.reader.projection, before)
    again = job_of(tiny_lm, narrow, first, trains=("lora", "projection"))
    np.testing.assert_array_equal(again.trained.reader.projection, before)


def test_what_was_learned_is_not_centred_over(tiny_lm, data, runs):
    """Scale and bias come from the first run, not from the training vectors once more."""
    first = runs(trains=("lora", "scale", "bias"), centred=True)
    job = job_of(tiny_lm, data, first, trains=("lora", "scale", "bias"), centred=True)
    equal(job.trained.reader, Run(first).load_result().reader)


def test_the_run_that_it_started_from_may_be_moved(tiny_lm, data, runs, tmp_path):
    """The same weights under another path go on; others, in the old place, do not."""
    first = shutil.copytree(runs(), tmp_path / "first")
    settings = dataclasses.replace(SHORT, start=str(first), seed=1)
    fit(tiny_lm, [data], tmp_path / "run", settings)
    moved = dataclasses.replace(settings, start=str(first.rename(tmp_path / "moved")))
    assert fit(tiny_lm, [data], tmp_path / "run", moved).resumed_at == 2
    shutil.copytree(runs(seed=5), first)
    with pytest.raises(SelfxError, match="holds another run:\n    start: "):
        fit(tiny_lm, [data], tmp_path / "run", settings)


def test_all_weights_go_on_in_full_precision(tiny_folder, data, tmp_path):
    """A model in bfloat16 is trained in float32; its folder holds what it is in bfloat16."""
    half = selfx.load(str(tiny_folder), dtype=jnp.bfloat16)
    training = dataclasses.replace(SHORT, trains=("full",))
    fit(half, [data], tmp_path / "run", training)
    job = job_of(half, data, tmp_path / "run", trains=("full",))
    first = load_explainer(tmp_path / "run", half)
    for path, leaf in parameters(first.model).items():
        assert leaf.dtype == jnp.bfloat16
        assert job.trained.model[path].dtype == jnp.float32
        np.testing.assert_array_equal(job.trained.model[path], leaf.astype(jnp.float32))


@pytest.mark.parametrize(
    ("first", "now", "message"),
    [
        ({}, {"rank": 4, "alpha": 32.0}, "shape"),
        ({}, {"targets": ("q",)}, "shape"),
        ({}, {"injection": "add"}, "marker.*\n.*add"),
        ({}, {"strength": 2.0}, "strength"),
        ({}, {"alpha": 3.0}, "adapters times"),
        ({}, {"rslora": True}, "adapters times"),
        ({}, {"trains": ("full",)}, "trained lora"),
        ({}, {"trains": ("bias",)}, "trained lora"),
        ({"trains": ("full",)}, {}, "trained model"),
        ({"trains": ("low_rank",), "reader_rank": 3}, {"trains": ("low_rank",)}, "shape"),
    ],
    ids=str,
)
def test_one_that_does_not_fit_is_refused(tiny_lm, data, runs, first, now, message):
    with pytest.raises(SelfxError, match=message) as caught:
        job_of(tiny_lm, data, runs(**first), **now)
    assert caught.value.expected


def test_one_of_other_weights_is_refused(write_tiny, data, runs):
    with pytest.raises(SelfxError, match="a start from"):
        job_of(selfx.load(str(write_tiny(seed=7))), data, runs())


def test_one_that_is_not_there_or_not_finished_is_refused(tiny_lm, data, tmp_path):
    with pytest.raises(SelfxError, match="no run in"):
        job_of(tiny_lm, data, tmp_path)

    def stop(*told):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny_lm, [data], tmp_path / "run", SHORT, report=stop)
    with pytest.raises(SelfxError, match="not finished"):
        job_of(tiny_lm, data, tmp_path / "run")


def test_a_run_remembers_what_it_started_from(tiny_lm, data, runs, tmp_path):
    """By what is in it, not by its name."""
    start = tmp_path / "start"
    fit(tiny_lm, [data], start, SHORT)
    second = dataclasses.replace(SHORT, start=str(start), epochs=1)
    fit(tiny_lm, [data], tmp_path / "run", second)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["start"] == Run(start).digest()
    fit(tiny_lm, [data], start, dataclasses.replace(SHORT, seed=5), fresh=True)
    with pytest.raises(SelfxError, match="start: "):
        fit(tiny_lm, [data], tmp_path / "run", second)


def test_it_goes_on_from_there_and_the_first_run_stays(tiny_lm, data, runs, tmp_path):
    """A bias, of one layer's vectors, then adapters over it: the result holds both."""
    first = runs(trains=("bias",))
    before = Run(first).digest()
    for trains in (("bias",), ("lora",)):
        second = dataclasses.replace(SHORT, trains=trains, start=str(first), epochs=1)
        fit(tiny_lm, [data], tmp_path / trains[0], second)
        one, two = (Run(path).load_result() for path in (first, tmp_path / trains[0]))
        moved = np.abs(np.asarray(two.reader.bias - one.reader.bias)).max(axis=1) > 0
        assert moved.tolist() == [False, False, trains == ("bias",), False]
        assert (two.lora is not None) == (trains == ("lora",))
        assert load_explainer(tmp_path / trains[0], tiny_lm).reader is not None
    assert Run(first).digest() == before


def test_training_all_weights_leaves_the_model_that_was_given(tiny_lm, tiny, data, runs):
    """A step reuses the memory of what it is given: not the explainer's."""
    runs(trains=("full",))
    jax.tree.map(np.testing.assert_array_equal, tiny_lm.model, tiny)
