"""One step: what it changes, what it leaves, at what rate, and what it does not survive."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfx.explainer.injection import Way
from selfx.explainer.optimization import Optimization
from selfx.explainer.reader import Reader
from selfx.explainer.step import Frozen, How, init_state, loss_and_gradient, make_step
from selfx.explainer.trained import begin
from selfx.explainer.training import Training
from selfx.testing import tiny_config, tiny_model

HOW = How(Way("marker"), depth=4)
RATES = Optimization(1e-2)


def parts_of(model, *trains, **settings):
    settings = {"rank": 2, "alpha": 4.0, "reader_rank": 2, **settings}
    return begin(model.config, model, Training(trains=trains, **settings), 4, 32)


def projected():
    return Reader(projection=jnp.tile(jnp.eye(32), (4, 1, 1)))


def copied(tree):
    return jax.tree.map(lambda x: np.array(x), tree)


def steps(model, trained, batches, how=HOW, rates=RATES, reader=None):
    """The state after some steps, and the metrics of the last."""
    optimizer = rates.build(20)
    step, state = make_step(optimizer, how), init_state(trained, optimizer)
    for batch in batches:
        state, metrics = step(state, Frozen(model, reader), batch)
    return state, metrics


def test_one_program_for_batches_of_one_shape(tiny, plan_of, planted):
    optimizer = RATES.build(20)
    step, state = make_step(optimizer, HOW), init_state(parts_of(tiny, "lora"), optimizer)
    plan = plan_of(planted(22))
    for index in range(12):
        state, metrics = step(state, Frozen(tiny), plan.batch(index))
    shapes = {plan.batch(index).tokens.shape for index in range(12)}
    assert step._cache_size() == len(shapes) <= 3
    assert int(state.step) == 12
    assert float(metrics["grad_norm"]) > 0


@pytest.mark.parametrize(
    "trains",
    [("lora",), ("full",), ("scale", "bias", "low_rank"), ("lora", "projection"), ("projection",)],
    ids=" ".join,
)
def test_a_step_changes_all_that_is_trained_and_nothing_else(plan_of, planted, trains):
    """Not one number of the model that was given, nor of a projection beside it."""
    model, given = tiny_model(seed=5), projected()
    before = copied((model, given))
    trained = parts_of(model, *trains)
    if "projection" in trains:
        trained = dataclasses.replace(trained, reader=given.over(trained.reader))
        trained = jax.tree.map(jnp.copy, trained)
    start = copied(trained)
    plan = plan_of(planted(8))
    state, _ = steps(model, trained, [plan.batch(0), plan.batch(1)], reader=given)
    jax.tree.map(np.testing.assert_array_equal, copied((model, given)), before)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.trained, start)
    paths, _ = jax.tree_util.tree_flatten_with_path(moved)
    same = [jax.tree_util.keystr(path) for path, changed in paths if not changed]
    assert not same
    assert len(paths) == {"lora": 14, "full": len(jax.tree.leaves(model))}.get(trains[0], 0) + len(
        dataclasses.replace(trained.reader or Reader()).given
    )


def test_only_the_layer_that_vectors_come_from_is_learned_of_a_reader(tiny, plan_of, planted):
    """All planted vectors are of layer 1."""
    trained = parts_of(tiny, "scale", "bias", "low_rank")
    trained = dataclasses.replace(
        trained, reader=trained.reader.replace(up=jnp.ones((4, 2, 32), jnp.float32))
    )
    measured = jax.jit(loss_and_gradient, static_argnums=3)
    batch = plan_of(planted(8)).batch(0)
    grads = measured(trained, Frozen(tiny), batch, HOW, jax.random.key(0))[1]
    for name, leaf in grads.reader.given.items():
        reached = np.abs(leaf).reshape(4, -1).max(axis=1) > 0
        assert reached.tolist() == [False, True, False, False], name


def test_half_precision_weights_train(plan_of, planted):
    model = tiny_model(tiny_config(), dtype=jnp.bfloat16)
    state, metrics = steps(model, parts_of(model, "lora"), [plan_of(planted(8)).batch(0)])
    assert np.isfinite(metrics["loss"])
    assert state.trained.lora["q"].a.dtype == jnp.float32


def test_all_weights_of_a_half_precision_model_are_trained_in_full(plan_of, planted):
    """Steps too small for bfloat16 to see add up."""
    model = tiny_model(tiny_config(), dtype=jnp.bfloat16)
    trained = parts_of(model, "full")
    start = copied(trained.model)
    plan = plan_of(planted(8))
    slow = Optimization(1e-5, weight_decay=0.0)
    state, metrics = steps(model, trained, [plan.batch(i) for i in range(4)], rates=slow)
    assert np.isfinite(metrics["loss"])
    for path, leaf in state.trained.model.items():
        assert leaf.dtype == jnp.float32
        assert 0 < np.abs(np.asarray(leaf) - start[path]).max() <= 5e-5, path


@pytest.mark.parametrize("spoilt", [np.inf, np.nan])
def test_a_step_that_is_not_a_number_changes_nothing_nor_does_any_after_it(
    tiny, plan_of, planted, spoilt
):
    good, optimizer = plan_of(planted(8)).batch(0), RATES.build(20)
    vectors = good.vectors.copy()
    vectors[0, 0, 3] = spoilt
    step, state = make_step(optimizer, HOW), init_state(parts_of(tiny, "lora"), optimizer)
    state, _ = step(state, Frozen(tiny), good)
    assert bool(state.sound)
    before = copied((state.trained, state.optimizer))
    state, metrics = step(state, Frozen(tiny), good.replace(vectors=vectors))
    assert not np.isfinite(float(metrics["loss"]) + float(metrics["grad_norm"]))
    state, metrics = step(state, Frozen(tiny), good)
    assert np.isfinite(metrics["loss"])
    assert not bool(state.sound)
    assert int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, copied((state.trained, state.optimizer)), before)


@pytest.mark.slow
def test_dropout_is_drawn_anew_each_step_and_part_and_is_a_function_of_the_seed(
    tiny, plan_of, planted
):
    batch = plan_of(planted(8)).batch(0)
    trained = parts_of(tiny, "lora")
    lora = {n: x.replace(b=jnp.ones_like(x.b) / 10) for n, x in trained.lora.items()}
    trained = dataclasses.replace(trained, lora=lora)
    loss = jax.jit(
        lambda batch, how, key: loss_and_gradient(trained, Frozen(tiny), batch, how, key)[0],
        static_argnums=1,
    )
    dropped = dataclasses.replace(HOW, dropout=0.4)
    keys = [jax.random.key(i) for i in range(2)]
    plain = float(loss(batch, HOW, keys[0]))
    first, second = (float(loss(batch, dropped, key)) for key in keys)
    assert len({plain, first, second}) == 3
    assert float(loss(batch, dropped, keys[0])) == first
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    parts = dataclasses.replace(dropped, accumulate=2)
    assert abs(float(loss(twice, parts, keys[0])) - first) > 1e-6, "each part has its own"
    optimizer, losses = RATES.build(20), []
    for seed in (0, 1):
        step = make_step(optimizer, dataclasses.replace(dropped, seed=seed))
        for _ in range(2):
            state = init_state(jax.tree.map(jnp.copy, trained), optimizer)
            losses.append(float(step(state, Frozen(tiny), batch)[1]["loss"]))
    assert losses[0] == losses[1] != losses[2] == losses[3]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Optimization(0.4), [0.4] * 6),
        (Optimization(0.4, "linear"), [0.4, 0.36, 0.32, 0.28, 0.24, 0.2]),
        (Optimization(0.4, "constant", 4), [0, 0.1, 0.2, 0.3, 0.4, 0.4]),
        (Optimization(0.4, "linear", 2), [0, 0.2, 0.4, 0.35, 0.3, 0.25]),
        (
            Optimization(0.4, "cosine"),
            [0.2 * (1 + np.cos(np.pi * step / 10)) for step in range(6)],
        ),
        (
            Optimization(0.4, "cosine", 2),
            [0, 0.2, *(0.2 * (1 + np.cos(np.pi * step / 8)) for step in range(4))],
        ),
    ],
)
def test_learning_rates(settings, expected):
    rate = settings.rate(10)
    np.testing.assert_allclose([rate(step) for step in range(6)], expected, rtol=1e-6)
    last = 0.4 if settings.schedule == "constant" else 0.0
    np.testing.assert_allclose(rate(10), last, atol=1e-7)


def test_what_vectors_go_through_has_a_rate_of_its_own_and_does_not_decay(tiny):
    """AdamW's first step is its rate for every number that has a gradient, less what decays."""
    settings = Optimization(1e-3, weight_decay=0.5, reader_rate=0.2, clip=1e9)
    trained = parts_of(tiny, "lora", "scale", "bias")
    optimizer = settings.build(10)
    grads = jax.tree.map(jnp.ones_like, trained)
    updates, _ = optimizer.update(grads, optimizer.init(trained), trained)
    np.testing.assert_allclose(updates.reader.scale, -0.2, rtol=1e-5)
    np.testing.assert_allclose(updates.reader.bias, -0.2, rtol=1e-5)
    a = np.asarray(trained.lora["q"].a)
    np.testing.assert_allclose(updates.lora["q"].a, -1e-3 * (1 + 0.5 * a), rtol=1e-4)


def test_gradients_are_clipped_together(tiny):
    """AdamW hides a gradient's scale; the moments show what came through the clip."""
    trained = parts_of(tiny, "lora", "bias")
    optimizer = Optimization(1e-2, clip=0.5).build(5)
    grads = jax.tree.map(lambda x: jnp.full_like(x, 100.0), trained)
    _, state = optimizer.update(grads, optimizer.init(trained), trained)
    moments = [mu for _, mu in optax.tree.get_all_with_path(state, "mu")]
    assert len(moments) == 2
    np.testing.assert_allclose(optax.tree.norm(moments) / 0.1, 0.5, rtol=1e-5)
