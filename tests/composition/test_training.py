"""A step of training under vmap, pmap and sharding: the same numbers, in float64 within 1e-10."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.explainer import lora
from selfx.explainer.batches import Plan
from selfx.explainer.injection import Way
from selfx.explainer.optimization import Optimization
from selfx.explainer.prompts import make_prompter
from selfx.explainer.reader import Reader
from selfx.explainer.step import Frozen, How, init_state, loss_and_gradient, make_step, total_loss
from selfx.explainer.trained import Trained
from selfx.sharding import make_mesh, shard, shard_batch
from selfx.testing import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("exact")

HOW = How(Way("add", 0.7), depth=4)
KEY = 0


@pytest.fixture(scope="module")
def batch(planted):
    """Sixteen rows, the last two of them padding; two to each of eight devices."""
    prompter = make_prompter(tiny_tokenizer(), (2,), "plain")
    return Plan(planted(14), prompter, width=32, batch_size=16, seed=0).batch(0)


@pytest.fixture
def model(exact):
    return tiny_model(dtype=jnp.float64)


def drawn(tree, seed):
    """A tree of that shape, of other numbers."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        treedef, [jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float64) for x in leaves]
    )


@pytest.fixture
def several(model):
    """Three explainers' adapters and readers."""
    adapters = lora.init(model.config, rank=2, alpha=4.0, key=jax.random.key(0), maps=("q", "down"))
    like = Trained(adapters, Reader(scale=jnp.ones(4), bias=jnp.zeros((4, 32))))
    return [drawn(like, seed) for seed in range(3)]


@functools.partial(jax.jit, static_argnames="how")
def measured(trained, frozen, batch, how=HOW):
    return loss_and_gradient(trained, frozen, batch, how, jax.random.key(KEY))


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert np.abs(a - b).max() <= 1e-10 * max(np.abs(b).max(), 1e-3)


def test_vmap_over_explainers(model, batch, several):
    over = jax.jit(jax.vmap(lambda t, m, b: measured(t, Frozen(m), b), in_axes=(0, None, None)))
    found = over(stack(several), model, batch)
    close(found, stack([measured(trained, Frozen(model), batch) for trained in several]))
    losses = np.asarray(found[0])
    assert len(set(losses.round(6))) == 3


def test_vmap_over_whole_steps(model, batch, several):
    """Three runs side by side are three runs."""
    optimizer = Optimization(1e-2).build(10)
    step = make_step(optimizer, HOW)
    over = jax.jit(jax.vmap(lambda s, m, b: step(s, Frozen(m), b), in_axes=(0, None, None)))
    states = stack([init_state(trained, optimizer) for trained in several])
    for _ in range(2):
        states, metrics = over(states, model, batch)
    alone = []
    for trained in several:
        state = init_state(jax.tree.map(jnp.copy, trained), optimizer)
        for _ in range(2):
            state, own = step(state, Frozen(model), batch)
        alone.append((state, own))
    close((states, metrics), stack(alone))


def test_pmap_over_the_rows(model, batch, several):
    """Sums over what each of eight devices has of a batch are those of the batch."""

    def part(trained, model, batch):
        found = jax.value_and_grad(total_loss)(trained, Frozen(model), batch, HOW)
        return jax.lax.psum((found, batch.weights.sum()), "rows")

    parts = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    assert not parts.mask[7].any()
    over = jax.pmap(part, axis_name="rows", in_axes=(None, None, 0))
    sums, count = jax.tree.map(lambda x: x[0], over(several[0], model, parts))
    close(jax.tree.map(lambda x: x / count, sums), measured(several[0], Frozen(model), batch))


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)], ids=str)
def test_a_step_on_a_mesh_is_the_step(model, batch, several, mesh):
    """Rows over `data`, the model's weights over `model`."""
    optimizer = Optimization(1e-2).build(10)
    step, devices = make_step(optimizer, HOW), make_mesh(*mesh)
    there = shard(model, devices)
    state = init_state(jax.tree.map(jnp.copy, several[0]), optimizer)
    found = step(state, Frozen(there), shard_batch(batch, devices))
    state = init_state(jax.tree.map(jnp.copy, several[0]), optimizer)
    close(found, step(state, Frozen(model), batch))
    spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(there)}
    assert spread == {8}
