import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.lora import Lora, check_adapters, merge
from selfx.models.block import MAPS
from selfx.models.decoder import forward
from selfx.testing import tiny_config, tiny_model

pytestmark = pytest.mark.usefixtures("compiled_once", "compiled_quickly")

TOKENS = np.random.default_rng(0).integers(6, 262, (2, 9))


@pytest.fixture(scope="module")
def fresh(tiny):
    return lora.init(tiny.config, rank=3, alpha=12.0, key=jax.random.key(0))


@pytest.fixture(scope="module")
def grown(fresh):
    """Adapters as training leaves them: b no longer zero."""
    rng = np.random.default_rng(1)
    draw = {name: 0.2 * rng.standard_normal(x.b.shape) for name, x in fresh.items()}
    return {n: x.replace(b=jnp.asarray(draw[n], jnp.float32)) for n, x in fresh.items()}


def test_fresh_adapters_change_no_bit(tiny, fresh):
    plain = forward(tiny, TOKENS, capture=("resid_post",))
    adapted = forward(tiny, TOKENS, lora=fresh, capture=("resid_post",))
    np.testing.assert_array_equal(plain.logits, adapted.logits)
    np.testing.assert_array_equal(plain.captures["resid_post"], adapted.captures["resid_post"])


def test_the_start_is_drawn_as_peft_draws_it(tiny, fresh):
    for name in MAPS:
        n_in, n_out = tiny.config.map_shape(name)
        a, b = np.asarray(fresh[name].a), np.asarray(fresh[name].b)
        assert (a.shape, b.shape) == ((4, n_in, 3), (4, 3, n_out))
        assert fresh[name].scale == 4.0
        bound = 1 / np.sqrt(n_in)
        assert 0.9 * bound < abs(a).max() <= bound
        np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.15)
    assert not np.array_equal(fresh["k"].a, fresh["v"].a)
    assert not np.array_equal(fresh["k"].a[0], fresh["k"].a[1])


def test_the_start_depends_on_the_key_alone(tiny, fresh):
    again = lora.init(tiny.config, rank=3, alpha=12.0, key=jax.random.key(0))
    other = lora.init(tiny.config, rank=3, alpha=12.0, key=jax.random.key(1))
    np.testing.assert_array_equal(again["up"].a, fresh["up"].a)
    assert not np.array_equal(other["up"].a, fresh["up"].a)


@pytest.mark.parametrize("name", MAPS)
def test_every_map_is_adapted(tiny, grown, name):
    plain = forward(tiny, TOKENS).logits
    assert np.abs(forward(tiny, TOKENS, lora={name: grown[name]}).logits - plain).max() > 1e-2


def test_merged_equals_adapted(tiny, grown):
    adapted = forward(tiny, TOKENS, lora=grown).logits
    merged = forward(merge(tiny, grown), TOKENS).logits
    np.testing.assert_allclose(merged, adapted, atol=5e-5 * np.abs(adapted).max())
    assert np.abs(adapted - forward(tiny, TOKENS).logits).max() > 0.1


def test_merged_is_the_written_formula(tiny, grown):
    merged = merge(tiny, grown)
    for name in MAPS:
        product = np.asarray(grown[name].a, float) @ np.asarray(grown[name].b, float)
        wanted = np.asarray(getattr(tiny.blocks, name).w[...]) + 4.0 * product
        np.testing.assert_allclose(getattr(merged.blocks, name).w[...], wanted, atol=1e-6)
    np.testing.assert_array_equal(merged.embed[...], tiny.embed[...])


def test_merging_keeps_the_dtype(grown):
    half = tiny_model(dtype=jnp.bfloat16)
    merged = merge(half, grown)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}


def test_gradients_reach_every_adapter(tiny, grown):
    def loss(adapters):
        return (forward(tiny, TOKENS, lora=adapters).logits ** 2).mean()

    grads = jax.grad(loss)(grown)
    assert jax.tree.structure(grads) == jax.tree.structure(grown)
    for name in MAPS:
        for leaf in (grads[name].a, grads[name].b):
            per_layer = np.abs(leaf).max(axis=(1, 2))
            assert (per_layer > 0).all(), f"{name}: a layer without a gradient"


def test_one_gradient_against_a_finite_difference(tiny, grown):
    def loss(b):
        adapters = {**grown, "down": grown["down"].replace(b=b)}
        return (forward(tiny, TOKENS, lora=adapters).logits[..., :8] ** 2).mean()

    b = grown["down"].b
    grad = jax.grad(loss)(b)
    toward = jnp.asarray(np.random.default_rng(2).standard_normal(b.shape), jnp.float32)
    numeric = (loss(b + 3e-3 * toward) - loss(b - 3e-3 * toward)) / 6e-3
    np.testing.assert_allclose((grad * toward).sum(), numeric, rtol=2e-2)


@pytest.mark.parametrize(("rank", "maps"), [(0, MAPS), (2, ("q", "lm_head"))])
def test_adapters_that_cannot_be(tiny, rank, maps):
    with pytest.raises(SelfxError, match="rank 0|lm_head"):
        lora.init(tiny.config, rank=rank, alpha=1.0, key=jax.random.key(0), maps=maps)


def test_adapters_of_another_model_are_refused(fresh):
    check_adapters(fresh, tiny_config())
    with pytest.raises(SelfxError, match="expected: .*48"):
        check_adapters(fresh, tiny_config(d_model=48))
    with pytest.raises(SelfxError, match="to fit the model"):
        check_adapters(fresh, tiny_config(n_layers=5))
    bad = Lora(fresh["q"].a, fresh["q"].b[:, :2], 1.0)
    with pytest.raises(SelfxError, match="'q'"):
        check_adapters({"q": bad}, tiny_config())
