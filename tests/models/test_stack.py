"""A model with its layers apart gives what it gave stacked, in every use that it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.explainer import lora
from selfx.interventions.build import patch, steer
from selfx.models import cache as caches
from selfx.models.decoder import apart, forward, with_layers
from selfx.models.generate import generate
from selfx.models.stack import Apart, over_layers, split
from selfx.models.tap import At

TOKENS = np.random.default_rng(5).integers(6, 262, (3, 9))
MASK = np.arange(9) < np.array([[9], [4], [7]])


@pytest.fixture(scope="module")
def adapters(tiny):
    made = lora.init(tiny.config, rank=2, alpha=4, key=jax.random.key(3))
    return jax.tree.map(lambda x: x + 0.01, made)


@pytest.fixture(scope="module")
def edits():
    rng = np.random.default_rng(6)
    change = patch("resid_post", rng.standard_normal(32), layers=[1, 3], positions=2)
    return change | steer("mlp_out", rng.standard_normal(32), layers=0, positions=None)


@pytest.fixture(scope="module")
def both(tiny):
    return tiny, with_layers(tiny, apart(tiny))


def same(one, other):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-5 * max(1.0, float(jnp.abs(b).max())))

    jax.tree.map(close, one, other)


def test_forward_with_edits_captures_and_adapters(both, edits, adapters):
    wanted = {"resid_post": None, "z": At(np.array([1, 2]), (0, 2)), "attn_probs": At(None, (3,))}

    def run(model):
        return forward(
            model,
            TOKENS,
            mask=MASK,
            edits=edits,
            capture=wanted,
            lora=adapters,
            logits_at=np.full((3, 1), 3),
        )

    one, other = (jax.jit(run)(model) for model in both)
    same((one.logits, one.captures), (other.logits, other.captures))


def test_gradients(both, adapters):
    def loss(adapters, model):
        return (forward(model, TOKENS, mask=MASK, lora=adapters).logits ** 2).mean()

    one, other = (jax.jit(jax.grad(loss))(adapters, model) for model in both)
    same(one, other)


def test_generation(both, edits, adapters):
    one, other = (
        generate(
            both[0], TOKENS, mask=MASK, edits=edits, lora=adapters, max_new_tokens=5, layers=layers
        )
        for layers in (None, apart(both[0]))
    )
    np.testing.assert_array_equal(one.tokens, other.tokens)


def test_a_cache_apart_holds_what_a_stacked_one_holds(both):
    empty = caches.empty(both[0].config, 3, 12, jnp.float32)
    one = jax.jit(forward)(both[0], TOKENS, mask=MASK, cache=empty).cache
    other = jax.jit(forward)(both[1], TOKENS, mask=MASK, cache=caches.apart(empty, 4)).cache
    assert isinstance(other.k, Apart)
    same((one.k, one.v), (jnp.stack(other.k.layers), jnp.stack(other.v.layers)))
    np.testing.assert_array_equal(one.position, other.position)


def test_a_loop_over_anything():
    """Stacked and apart side by side, and empty trees."""
    xs, ys = jnp.arange(6.0).reshape(3, 2), jnp.arange(3.0)

    def body(carry, inputs):
        x, y, nothing = inputs
        assert nothing is None
        return carry + (x * y).sum(), (x + carry, (y,))

    carry, (seen, (past,)) = over_layers(body, 0.0, (xs, ys, None))
    again, (reseen, (repast,)) = over_layers(body, 0.0, (xs, split(ys, 3), None))
    same((carry, seen, past), (again, reseen, jnp.stack(repast.layers)))
