"""Gradients with respect to what an edit writes, against differences of the float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.interventions.build import patch, steer
from selfx.models.decoder import forward
from selfx.models.sites import SITES

LENGTH, LAYER, POSITION = 6, 1, 3
STEP = 1e-5


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(41).integers(6, 262, LENGTH)


def margin(logits):
    """A number that depends on every logit of the last token."""
    return (logits[-1] * np.cos(np.arange(logits.shape[-1]))).sum()


def slope(f, direction):
    """The derivative of `f(step * direction)` at 0, by a fourth-order difference in float64."""
    ahead, behind = (f(sign * STEP * direction) for sign in (1, -1))
    far, back = (f(sign * 2 * STEP * direction) for sign in (1, -1))
    return (8 * (ahead - behind) - (far - back)) / (12 * STEP)


def changed_at(site, change):
    def hook(name, layer, x):
        if name != site or (SITES[site].layered and layer != LAYER):
            return x
        x = x.copy()
        x[POSITION] = change(x[POSITION])
        return x

    return hook


def feature(site, config):
    sizes = zip(SITES[site].axes, SITES[site].feature_shape(config), strict=True)
    return tuple(LENGTH if axis == "s" else size for axis, size in sizes)


def test_of_a_steering_vector_at_every_site(tiny, tokens, numpy_llama):
    """All sites at once in one program, their vectors zero: each gradient is that of the run."""
    vectors = {site: jnp.zeros(feature(site, tiny.config)) for site in SITES}

    @jax.jit
    @jax.grad
    def gradients(vectors, model):
        edits = None
        for site, vector in vectors.items():
            where = {"layers": LAYER} if SITES[site].layered else {}
            more = steer(site, vector, positions=POSITION, **where)
            edits = more if edits is None else edits | more
        return margin(forward(model, tokens[None], edits=edits).logits[0])

    found = gradients(vectors, tiny)
    rng = np.random.default_rng(42)
    for site in SITES:
        if site == "logits":  # of a token before the last
            assert not np.any(found[site])
            continue
        direction = rng.standard_normal(vectors[site].shape)
        if "s" in SITES[site].axes:
            direction[..., POSITION + 1 :] = 0
        want = slope(
            lambda d, site=site: margin(
                numpy_llama.run(tiny, tokens, changed_at(site, lambda x: x + d)).logits
            ),
            direction,
        )
        got = float((np.asarray(found[site], np.float64) * direction).sum())
        scale = np.linalg.norm(found[site]) * np.linalg.norm(direction)
        if site == "final_norm":  # the same
            assert scale == got == 0
            continue
        assert scale > 1e-3, site
        assert abs(got - want) <= 2e-5 * scale, (site, got, want)


def test_of_a_patched_value_its_strength_and_its_heads(tiny, tokens, numpy_llama):
    rng = np.random.default_rng(43)
    value, vector = rng.standard_normal((4, 8)), rng.standard_normal(32)
    heads = np.array([True, False, True, False])[:, None]

    @jax.jit
    @jax.grad
    def gradients(at):
        edits = patch("z", at["value"], layers=LAYER, positions=POSITION, part=heads)
        edits = edits | steer("resid_mid", vector, strength=at["strength"], layers=LAYER)
        return margin(forward(tiny, tokens[None], edits=edits).logits[0])

    found = gradients({"value": jnp.asarray(value, jnp.float32), "strength": jnp.float32(0.5)})

    def run(value, strength):
        def hook(site, layer, x):
            if site == "z" and layer == LAYER:
                x = x.copy()
                x[POSITION] = np.where(heads, value, x[POSITION])
            return x + strength * vector if (site, layer) == ("resid_mid", LAYER) else x

        return margin(numpy_llama.run(tiny, tokens, hook).logits)

    direction = rng.standard_normal(value.shape)
    want = slope(lambda d: run(value + d, 0.5), direction)
    scale = np.linalg.norm(found["value"]) * np.linalg.norm(direction)
    assert abs((found["value"] * direction).sum() - want) <= 2e-5 * scale
    assert not np.any(found["value"][~heads[:, 0]])
    want = slope(lambda d: run(value, 0.5 + d), 1.0)
    assert abs(found["strength"] - want) <= 1e-4 * abs(want)


def test_an_overwritten_activation_has_no_gradient_through_it(tiny, tokens):
    """Nor a NaN where the activation that is overwritten is infinite."""

    @jax.jit
    @jax.grad
    def gradients(vector):
        where = {"layers": LAYER, "positions": POSITION}
        edits = steer("mlp_out", vector, **where) | steer("mlp_out", jnp.inf, **where)
        return margin(
            forward(tiny, tokens[None], edits=edits | patch("mlp_out", 0.0, **where)).logits[0]
        )

    assert np.array_equal(gradients(jnp.zeros(32)), np.zeros(32))
