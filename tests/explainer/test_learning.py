"""A planted signal is learned in every way that vectors enter, by every part that can be trained.

A vector names one of four classes and the text says nothing, so a quarter can be guessed. The same
run on vectors of somebody else must end there. What is never trained must not move.

A random model cannot be steered by its vectors alone: parts of a reader are trained before an
explainer that reads already, whose vectors are spoilt in a way that the part can mend.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.explainer.job import prepare
from selfx.explainer.mixture import Mixture
from selfx.explainer.optimization import Optimization
from selfx.explainer.origin import Origin
from selfx.explainer.step import init_state, make_step
from selfx.explainer.trained import explaining
from selfx.explainer.training import Training

RATES = Optimization(3e-3, reader_rate=2e-2)
LORA = Training(style="plain", rank=4, batch_size=16, epochs=15, held_out=0.5, optimization=RATES)
FULL = dataclasses.replace(LORA, trains=("full",), optimization=Optimization(2e-3))
EXAMPLES = 128


def offset(vectors):
    """Three times as long as they are, the same for all."""
    common = np.random.default_rng(5).standard_normal(32)
    return vectors + 17 * common / np.linalg.norm(common)


def turned(vectors):
    """By one rotation."""
    return vectors @ np.linalg.qr(np.random.default_rng(6).standard_normal((32, 32)))[0]


@pytest.fixture(scope="module")
def jobs(planted):
    """A function: the job of a training on the planted signal, or on vectors of somebody else."""

    def make(lm, training, shuffled, width=32, spoil=lambda vectors: vectors):
        made = [
            dataclasses.replace(
                example,
                questions=example.questions[:1],  # one length, one program
                vectors=spoil(example.vectors).astype(np.float32),
            )
            for example in planted(EXAMPLES, shuffled=shuffled, width=width)
        ]
        times = (1.0,) * EXAMPLES
        return prepare(lm, Mixture((), (), tuple(made), (1.0,), times, Origin(width, 4)), training)

    return make


def trained(job, step):
    """The state after a whole run, and a look at what was held out."""
    state = init_state(job.trained, job.training.optimization.build(job.total))
    for index in range(job.total):
        state, _ = step(state, job.frozen, job.plan.batch(index))
    assert bool(state.sound)
    return state, job.watch.look(state.trained, job.frozen)


def learns(jobs, lm, training, **how):
    """Checks that the signal is learned, that noise is not, and that nothing else has changed."""
    training.check()
    job = jobs(lm, training, False, **how)
    before = jax.tree.map(np.array, job.frozen)
    step = make_step(training.optimization.build(job.total), job.how)
    state, look = trained(job, step)
    assert len(job.plan.rows) == len(job.watch.forced.order) == 64
    assert look["held_out_exact"] > 0.9, look
    assert look["zero_exact"] <= 0.3, look
    assert look["lift"] > 0.6, look
    assert look["loss_lift"] > 0.1, look
    shuffled = trained(jobs(lm, training, True, **how), step)[1]
    assert shuffled["held_out_exact"] <= 0.4, shuffled
    assert shuffled["held_out_loss"] > look["held_out_loss"] + 0.1, shuffled
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, job.frozen), before)
    return state.trained


@pytest.mark.parametrize("injection", ["embedding", "marker", "add", "overwrite"])
def test_every_injection_is_learned_from(jobs, tiny_lm, injection):
    strength = 4.0 if injection == "add" else 0.0
    found = learns(jobs, tiny_lm, dataclasses.replace(LORA, injection=injection, strength=strength))
    assert found.reader is found.model is None


@pytest.mark.parametrize(
    "change",
    [
        {"rslora": True, "alpha": 8.0},
        pytest.param({"dropout": 0.1}, marks=pytest.mark.slow),
        {"targets": ("q", "v"), "optimization": Optimization(1e-2), "epochs": 20},
        {"trains": ("lora", "scale", "bias")},
    ],
    ids=str,
)
def test_adapters_of_every_kind_learn(jobs, tiny_lm, change):
    found = learns(jobs, tiny_lm, dataclasses.replace(LORA, **change))
    assert set(found.lora) == set(change.get("targets", tiny_lm.config.maps))
    assert {x.scale for x in found.lora.values()} == {4.0}
    if found.reader is not None:
        assert list(found.reader.given) == ["scale", "bias"]
        moved = np.abs(np.asarray(found.reader.bias)).max(axis=1) > 0
        assert moved.tolist() == [False, True, False, False], "the layer that vectors are of"


@pytest.fixture(scope="module")
def whole(jobs, tiny_lm):
    """All weights, trained on the signal; checked here once for those who go on with them."""
    return learns(jobs, tiny_lm, FULL)


def test_all_weights_learn_and_the_model_that_was_given_is_as_it_was(whole, tiny_lm, tiny):
    assert whole.lora is whole.reader is None
    jax.tree.map(np.testing.assert_array_equal, tiny_lm.model, tiny)
    moved = {path for path, x in whole.model.items() if not np.array_equal(x, at(tiny, path))}
    assert moved == set(whole.model)


def at(model, path):
    for name in path.split("."):
        model = getattr(model, name)
    return model[...]


@pytest.fixture(scope="module")
def reading(whole, tiny_lm):
    """An explainer that reads already."""
    copies = jax.tree.map(jnp.copy, whole)
    return dataclasses.replace(tiny_lm, model=explaining(copies, tiny_lm.model))


@pytest.mark.parametrize(
    ("trains", "spoil"),
    [
        (("bias",), offset),
        (("scale", "bias"), offset),
        (("low_rank",), turned),
        (("projection",), turned),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # an address would differ each time
)
def test_a_part_of_a_reader_mends_what_it_can(jobs, reading, trains, spoil):
    training = dataclasses.replace(LORA, trains=trains, reader_rank=32)
    look = trained_before(jobs(reading, training, False, spoil=spoil))
    assert look["held_out_exact"] <= 0.5, "as the vectors come they cannot be read"
    found = learns(jobs, reading, training, spoil=spoil)
    assert found.lora is found.model is None


def trained_before(job):
    return job.watch.look(job.trained, job.frozen)


def test_vectors_of_another_width_are_read_through_a_projection_that_is_learned(jobs, reading):
    found = learns(jobs, reading, dataclasses.replace(LORA, trains=("projection",)), width=20)
    assert found.reader.projection.shape == (4, 20, 32)


def test_or_through_one_that_is_drawn_and_stays(jobs, tiny_lm):
    training = dataclasses.replace(LORA, projection="random")
    found = learns(jobs, tiny_lm, training, width=20)
    assert found.reader is None
