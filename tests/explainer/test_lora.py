import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.lora import Lora, check_adapters, merge, stack, unmerge, with_dropout
from selfx.models.block import MAPS
from selfx.models.decoder import forward
from selfx.testing import tiny_config, tiny_model

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


def test_rank_stabilised_adapters_have_another_scale(tiny):
    fresh = lora.init(tiny.config, rank=9, alpha=6.0, key=jax.random.key(0), rslora=True)
    assert {each.scale for each in fresh.values()} == {2.0}


def test_unmerged_is_the_model_as_it_was(tiny, grown):
    again = unmerge(merge(tiny, grown), grown)
    for name in MAPS:
        was, new = (np.asarray(getattr(m.blocks, name).w[...]) for m in (tiny, again))
        assert np.abs(new - was).max() <= 2e-7 * np.abs(was).max()
    np.testing.assert_array_equal(again.embed[...], tiny.embed[...])


def test_in_half_precision_the_last_bits_are_lost(grown):
    half = tiny_model(dtype=jnp.bfloat16)
    was = np.float32(half.blocks.q.w[...])
    new = np.float32(unmerge(merge(half, grown), grown).blocks.q.w[...])
    assert 0 < np.abs(new - was).max() <= 2**-7 * np.abs(was).max() + 2**-7


@pytest.mark.parametrize("scale", [4.0, 0.3], ids=["one scale", "two scales"])
def test_stacked_adapters_add_up(tiny, grown, scale):
    rng = np.random.default_rng(8)
    other = {
        name: Lora(
            jnp.asarray(rng.standard_normal((*grown[name].a.shape[:2], 2)), jnp.float32),
            jnp.asarray(0.1 * rng.standard_normal((4, 2, grown[name].b.shape[2])), jnp.float32),
            scale,
        )
        for name in ("k", "v", "down")
    }
    both = stack({name: grown[name] for name in ("q", "k", "v")}, other)
    assert set(both) == {"q", "k", "v", "down"}
    assert both["k"].a.shape[-1] == 3 + 2
    for name, each in both.items():
        parts = [x[name] for x in ({n: grown[n] for n in "qkv"}, other) if name in x]
        wanted = sum(x.scale * (np.asarray(x.a, float) @ np.asarray(x.b, float)) for x in parts)
        found = each.scale * (np.asarray(each.a, float) @ np.asarray(each.b, float))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    twice = merge(merge(tiny, {name: grown[name] for name in ("q", "k", "v")}), other)
    want = forward(twice, TOKENS).logits
    got = forward(tiny, TOKENS, lora=both).logits
    np.testing.assert_allclose(got, want, atol=5e-5 * np.abs(want).max())


def read_by(adapter, x):
    """What each layer's adapter multiplied with, `[l, n, in]`."""
    identity = jnp.broadcast_to(jnp.eye(x.shape[1]), (len(adapter.key), *(x.shape[1],) * 2))
    seen = dataclasses.replace(adapter, adapter=Lora(identity, identity, 1.0))
    return np.asarray(jax.lax.scan(lambda _, layer: (None, layer(x)), None, seen)[1])


def test_dropout_leaves_out_elements_and_keeps_the_mean(fresh):
    x = jnp.ones((400, 32))
    dropped = with_dropout({"q": fresh["q"], "k": fresh["k"]}, 0.25, jax.random.key(5))
    q, k = read_by(dropped["q"], x), read_by(dropped["k"], x)
    assert set(np.unique(np.round(q, 5))) == {0.0, np.float32(np.round(4 / 3, 5))}
    share = (q == 0).mean(axis=(1, 2))  # in each of four layers, of 12800 elements
    np.testing.assert_allclose(share, 0.25, atol=0.02)
    assert len({layer.tobytes() for layer in (*q, *k)}) == 8
    together = ((q[0] == 0) & (k[0] == 0)).mean()
    np.testing.assert_allclose(together, 0.0625, atol=0.01)


def test_dropout_of_nothing_is_the_adapters_themselves(grown):
    assert with_dropout(grown, 0.0, jax.random.key(0)) is grown
    for rate in (-0.1, 1.0):
        with pytest.raises(SelfxError, match="dropout"):
            with_dropout(grown, rate, jax.random.key(0))


def test_dropout_in_a_compiled_gradient(tiny, grown):
    """Its tree holds weights alone; keys decide it, also where a layer is computed twice."""

    @functools.partial(jax.jit, static_argnames="remat")
    def grads(adapters, model, key, remat=False):
        def loss(adapters):
            dropped = with_dropout(adapters, 0.5, key)
            return (forward(model, TOKENS, lora=dropped, remat=remat).logits ** 2).mean()

        return jax.grad(loss)(adapters)

    one, again, other = (grads(grown, tiny, jax.random.key(seed)) for seed in (1, 1, 2))
    anew = grads(grown, tiny, jax.random.key(1), remat=True)
    assert jax.tree.structure(one) == jax.tree.structure(grown)
    for name in MAPS:
        np.testing.assert_array_equal(one[name].a, again[name].a)
        largest = np.abs(one[name].a).max()
        np.testing.assert_allclose(one[name].a, anew[name].a, rtol=0, atol=1e-4 * largest)
        assert np.abs(one[name].a - other[name].a).max() > 0.1 * largest
