"""jit, vmap, grad, remat, pmap, shard_map and sharding, on our edits and on a user's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import PartitionSpec

from selfx.errors import SelfxError
from selfx.interventions.build import patch, steer
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.sharding import make_mesh, shard, shard_batch
from selfx.testing import tiny_config, tiny_model

ROWS, LENGTH = 8, 6
TOLERANCE = 1e-5


@struct.dataclass
class Turn:
    """A user's edit: turns the activation in the plane of its first two coordinates."""

    angle: jax.Array
    layer: jax.Array

    def __call__(self, x, at):
        cos, sin = jnp.cos(self.angle), jnp.sin(self.angle)
        turned = x.at[..., :2].set(x[..., :2] @ jnp.array([[cos, sin], [-sin, cos]]))
        return jnp.where((at.layer == self.layer) & (at.position >= 2)[..., None], turned, x)


def library(seed):
    rng = np.random.default_rng(seed)
    return patch(
        "resid_post", rng.standard_normal(32), layers=int(rng.integers(4)), positions=2
    ) | steer("z", rng.standard_normal((4, 8)), layers=[0, 2])


def own(seed):
    rng = np.random.default_rng(seed)
    return {"resid_mid": (Turn(jnp.float32(rng.uniform(1, 3)), jnp.int32(rng.integers(4))),)}


def make(seed):
    """Ours and a user's own, at sites of their own."""
    return library(seed) | own(seed)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(61).integers(6, 262, (ROWS, LENGTH))


def logits(model, tokens, edits):
    return forward(model, tokens, edits=edits).logits


jitted = jax.jit(logits)


def loss(edits, model, tokens, remat=False):
    """The loss of the next tokens; edits first, to differentiate by their numbers."""
    scores = forward(model, tokens, edits=edits, remat=remat).logits[:, :-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), tokens[:, 1:, None], axis=2).mean()


def assert_same(got, want):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= TOLERANCE * max(np.abs(other).max(), 1e-3)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def floats(edits):
    """A function that puts numbers back among the edits' leaves, and the numbers themselves."""
    leaves, treedef = jax.tree.flatten(edits)
    numbers = {i: x for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)}

    def rebuild(numbers):
        return jax.tree.unflatten(treedef, [numbers.get(i, x) for i, x in enumerate(leaves)])

    return rebuild, numbers


def test_a_users_edit_is_what_it_says(tiny, tokens, numpy_llama):
    edits = own(1)
    turn = edits["resid_mid"][0]
    cos, sin = np.cos(float(turn.angle)), np.sin(float(turn.angle))

    def hook(site, layer, x):
        if site != "resid_mid" or layer != int(turn.layer):
            return x
        x = x.copy()
        x[2:, :2] = x[2:, :2] @ np.array([[cos, sin], [-sin, cos]])
        return x

    want = numpy_llama.run(tiny, tokens[0], hook).logits
    got = jitted(tiny, tokens, edits)[0]
    assert np.abs(got - want).max() <= 5e-5 * np.abs(want).max()
    assert np.abs(want - numpy_llama.run(tiny, tokens[0]).logits).max() > 0.01


def test_no_jit(tiny, tokens):
    assert_same(logits(tiny, tokens, make(0)), jitted(tiny, tokens, make(0)))


def test_vmap_over_a_grid_of_edits(tiny, tokens):
    """Other layers, vectors and angles in every cell."""
    several = [make(seed) for seed in range(3)]
    grid = jax.jit(jax.vmap(logits, in_axes=(None, None, 0)))(tiny, tokens, stack(several))
    assert_same(grid, jnp.stack([jitted(tiny, tokens, edits) for edits in several]))


def test_vmap_over_where_an_edit_is_made(tiny, tokens):
    """The constructor itself stands inside: a layer by position grid in one program."""
    vector = np.ones(32, np.float32)

    def cell(layer, position):
        return logits(tiny, tokens, steer("resid_post", vector, layers=layer, positions=position))

    layers, positions = jnp.arange(3), jnp.arange(1, 5)
    over = jax.vmap(jax.vmap(cell, in_axes=(None, 0)), in_axes=(0, None))
    grid = jax.jit(over)(layers, positions)
    assert grid.shape[:2] == (3, 4)
    for i, j in ((0, 0), (2, 3), (1, 2)):
        edits = steer("resid_post", vector, layers=i, positions=j + 1)
        assert_same(grid[i, j], jitted(tiny, tokens, edits))


def test_vmap_over_models(tokens):
    models = [tiny_model(tiny_config(n_layers=4), seed=seed) for seed in range(2)]
    both = jax.jit(jax.vmap(logits, in_axes=(0, None, None)))(stack(models), tokens, make(0))
    assert_same(both, jnp.stack([jitted(model, tokens, make(0)) for model in models]))


def loss_of_numbers(numbers, model, tokens, remat=False):
    rebuild, _ = floats(make(0))
    return loss(rebuild(numbers), model, tokens, remat)


@pytest.fixture(scope="module")
def gradients(tiny, tokens):
    """By the edits' numbers and by all weights."""
    _, numbers = floats(make(0))
    return jax.jit(jax.grad(loss_of_numbers, argnums=(0, 1)))(numbers, tiny, tokens)


def test_remat_gives_the_same_gradients(tiny, tokens, gradients):
    """And does recompute: its program has more products of matrices in it."""
    _, numbers = floats(make(0))
    again = jax.grad(functools.partial(loss_of_numbers, remat=True), argnums=(0, 1))
    assert_same(jax.jit(again)(numbers, tiny, tokens), gradients)
    products = [
        str(jax.make_jaxpr(grad)(numbers, tiny, tokens)).count("dot_general")
        for grad in (
            jax.grad(loss_of_numbers),
            jax.grad(functools.partial(loss_of_numbers, remat=True)),
        )
    ]
    assert products[0] < products[1]


def test_vmap_of_grad(tiny, tokens, gradients):
    _, numbers = floats(make(0))
    several = stack([jax.tree.map(lambda x, s=s: s * x, numbers) for s in (0.5, 1.0)])
    over = jax.vmap(jax.grad(loss_of_numbers), in_axes=(0, None, None))
    mapped = jax.jit(over)(several, tiny, tokens)
    assert_same(jax.tree.map(lambda x: x[1], mapped), gradients[0])
    leaves = jax.tree.leaves(mapped)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert sum(np.abs(leaf[0] - leaf[1]).max() > 1e-4 for leaf in leaves) >= 3


def test_pmap_over_the_batch(tiny, tokens):
    """One row a device; the edits shared, as an argument and closed over."""
    edits = make(0)
    got = jax.pmap(logits, in_axes=(None, 0, None))(tiny, tokens[:, None], edits)
    again = jax.pmap(lambda rows: logits(tiny, rows, edits))(tokens[:, None])
    np.testing.assert_array_equal(again, got)
    assert len(got.sharding.device_set) == 8
    assert_same(got[:, 0], jitted(tiny, tokens, make(0)))


def test_pmap_over_edits(tiny, tokens):
    """One experiment a device."""
    several = [make(seed) for seed in range(8)]
    got = jax.pmap(logits, in_axes=(None, None, 0))(tiny, tokens, stack(several))
    assert_same(got, jnp.stack([jitted(tiny, tokens, edits) for edits in several]))


def test_pmap_of_grad(tiny, tokens, gradients):
    _, numbers = floats(make(0))

    def gradient(numbers, tokens):
        return jax.lax.pmean(jax.grad(loss_of_numbers)(numbers, tiny, tokens), "devices")

    got = jax.pmap(gradient, "devices", in_axes=(None, 0))(numbers, tokens[:, None])
    assert_same(jax.tree.map(lambda x: x[3], got), gradients[0])


def test_shard_map_over_the_batch(tiny, tokens):
    mesh = make_mesh(8, 1)
    split, whole = PartitionSpec("data"), PartitionSpec()
    over = jax.shard_map(
        logits, mesh=mesh, in_specs=(whole, split, whole), out_specs=split, check_vma=False
    )
    assert_same(jax.jit(over)(tiny, tokens, make(0)), jitted(tiny, tokens, make(0)))


def test_an_edit_a_row_is_split_with_its_row(tiny, tokens):
    rng = np.random.default_rng(62)
    edits = patch(
        "resid_post",
        rng.standard_normal((ROWS, 4, 32)),
        layers=rng.integers(0, 4, (ROWS, 2)),
        positions=rng.integers(0, LENGTH, ROWS),
        part=rng.random((ROWS, 32)) < 0.5,
    )
    edits = jax.tree.map(lambda x: jnp.broadcast_to(x, (ROWS, *x.shape[1:])), edits)
    want = jitted(tiny, tokens, edits)
    each = jax.tree.map(lambda x: x[:, None], edits)
    assert_same(jax.pmap(logits, in_axes=(None, 0, 0))(tiny, tokens[:, None], each)[:, 0], want)
    mesh = make_mesh(4, 2)
    got = jitted(shard(tiny, mesh), shard_batch(tokens, mesh), shard_batch(edits, mesh))
    assert_same(got, want)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(4, 2)


def test_sharded_over_data_and_model(tiny, tokens, gradients, mesh):
    """Weights and rows split over 4 x 2 devices: the same logits, captures and gradients."""
    model, rows = shard(tiny, mesh), shard_batch(tokens, mesh)
    got = jitted(model, rows, make(0))
    assert len(got.sharding.device_set) == 8
    assert got.addressable_shards[0].data.shape[0] == ROWS // 4
    assert_same(got, jitted(tiny, tokens, make(0)))
    _, numbers = floats(make(0))
    split = jax.jit(jax.grad(loss_of_numbers, argnums=(0, 1)))(numbers, model, rows)
    assert_same(split, gradients)


def test_generate_on_a_mesh_and_under_pmap(tiny, tokens, mesh):
    continue_ = functools.partial(generate, max_new_tokens=4)
    want = continue_(tiny, tokens, edits=make(0)).tokens.tolist()
    split = continue_(shard(tiny, mesh), shard_batch(tokens, mesh), edits=make(0))
    assert split.tokens.tolist() == want
    mapped = jax.pmap(lambda rows: continue_(tiny, rows, edits=make(0)).tokens)(tokens[:, None])
    assert mapped[:, 0].tolist() == want


def test_rules_split_what_they_name(mesh):
    config = tiny_config(attention_bias=True, output_bias=True, mlp_bias=True)
    model = shard(tiny_model(config), mesh)
    blocks = model.blocks
    for leaf, split in (
        (blocks.q.w, (4, 32, 16)),
        (blocks.k.w, (4, 32, 8)),
        (blocks.v.b, (4, 8)),
        (blocks.o.w, (4, 16, 32)),
        (blocks.gate.w, (4, 32, 32)),
        (blocks.up.b, (4, 32)),
        (blocks.down.w, (4, 32, 32)),
        (blocks.o.b, (4, 32)),
        (blocks.attn_norm.w, (4, 32)),
        (model.embed, (131, 32)),
        (model.unembed.w, (32, 131)),
        (model.final_norm.w, (32,)),
    ):
        assert leaf[...].addressable_shards[0].data.shape == split


def test_what_does_not_divide_stays_whole(tiny, tokens):
    mesh = make_mesh(2, 3)
    model = shard(tiny, mesh)
    assert model.blocks.gate.w[...].addressable_shards[0].data.shape == (4, 32, 64)
    assert_same(jitted(model, shard_batch(tokens, mesh), None), jitted(tiny, tokens, None))


def test_meshes():
    assert dict(make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(make_mesh(model=2).shape) == {"data": 4, "model": 2}
    assert dict(make_mesh(1, 1, devices=jax.devices()[3:4]).shape) == {"data": 1, "model": 1}
    for data, model in ((8, 2), (-1, 16), (0, 1)):
        with pytest.raises(SelfxError, match="at most 8 devices"):
            make_mesh(data, model)
