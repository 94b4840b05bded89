"""Every site of every layer against an independent NumPy float64 implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.models.config import Rope, RopeScaling
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.models.sites import SITES
from selfx.testing import tiny_config, tiny_model

TOLERANCE = 5e-5
LENGTH = 40

SCALINGS = {
    "linear": RopeScaling("linear", 4.0, 16),
    "dynamic": RopeScaling("dynamic", 4.0, 16),
    "llama3": RopeScaling("llama3", 8.0, 16, low_freq_factor=0.05, high_freq_factor=1.0),
    "yarn": RopeScaling("yarn", 4.0, 16, beta_fast=2.0, beta_slow=0.05, attention_factor=1.14),
    "yarn-exact": RopeScaling(
        "yarn", 4.0, 16, beta_fast=2.0, beta_slow=0.05, attention_factor=1.0, truncate=False
    ),
}
SHAPES = {
    "gqa": tiny_config(),
    "mqa": tiny_config(n_kv_heads=1),
    "full": tiny_config(n_kv_heads=4, n_layers=2),
    "tied": tiny_config(tied=True, n_layers=3),
    "biases": tiny_config(attention_bias=True, output_bias=True, mlp_bias=True),
    "wide-heads": tiny_config(d_head=16, n_heads=6, n_kv_heads=3, ropes=(Rope(5e5),)),
    "coarse-norm": tiny_config(norm_eps=0.3),
    **{
        name: tiny_config(d_head=16, ropes=(Rope(1e4, scaling),))
        for name, scaling in SCALINGS.items()
    },
}


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(6, 262, LENGTH)


@functools.partial(jax.jit, static_argnames="capture")
def run(model, tokens, capture=tuple(SITES)):
    return forward(model, tokens, capture=capture)


def assert_close(got, want, what, tolerance=TOLERANCE):
    got, want = np.asarray(got, np.float64), np.asarray(want)
    assert got.shape == want.shape, what
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= tolerance, f"{what}: off by {worst:.1e} of its scale"


@pytest.mark.parametrize("shape", SHAPES)
def test_every_site_of_every_layer(shape, tokens, numpy_llama):
    model = tiny_model(SHAPES[shape])
    out, want = run(model, tokens[None]), numpy_llama.run(model, tokens)
    assert set(out.captures) == set(SITES) == set(want.sites)
    for site, about in SITES.items():
        got = np.asarray(out.captures[site])
        got = got[:, 0] if about.layered else got[0]
        assert got.dtype == np.float32
        for layer in range(model.config.n_layers) if about.layered else [...]:
            assert_close(got[layer], want.sites[site][layer], f"{site} of layer {layer}")
    assert_close(out.logits[0], want.logits, "logits")


@pytest.mark.parametrize("shape", ["gqa", "dynamic"])
def test_greedy_continuation(shape, tokens, numpy_llama):
    """Under the dynamic scaling only within the original length: past it, what is cached was turned
    at a shorter length, in every implementation."""
    model = tiny_model(SHAPES[shape])
    prompt, steps = (tokens[:12], 12) if shape == "gqa" else (tokens[:8], 8)
    got = generate(model, prompt[None], max_new_tokens=steps)
    assert got.tokens[0].tolist() == numpy_llama.greedy(model, prompt, steps)


def test_bfloat16_stays_near(tokens, numpy_llama):
    model = tiny_model(tiny_config(), dtype=jnp.bfloat16)
    out = run(model, tokens[None], ("resid_post", "attn_probs"))
    want = numpy_llama.run(model, tokens)
    assert out.captures["resid_post"].dtype == jnp.bfloat16
    assert out.captures["attn_probs"].dtype == out.logits.dtype == jnp.float32
    assert_close(out.captures["resid_post"][:, 0], want.sites["resid_post"], "resid_post", 0.03)
    assert_close(out.logits[0], want.logits, "logits", 0.03)


def test_the_scalings_differ_from_one_another(tokens, numpy_llama):
    """Else the comparisons above would not notice a scaling that is ignored or mistaken."""
    plain = tiny_config(d_head=16)
    runs = {"none": numpy_llama.run(tiny_model(plain), tokens).logits}
    for name in SCALINGS:
        runs[name] = numpy_llama.run(tiny_model(SHAPES[name]), tokens).logits
    names = list(runs)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            gap = np.abs(runs[one] - runs[other]).max() / np.abs(runs[one]).max()
            assert gap > 100 * TOLERANCE, (one, other)
