"""Contents never compile anew, only structure does."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.interventions.build import ablate, inject, patch, steer
from selfx.models.decoder import forward
from selfx.models.generate import _generate, generate
from selfx.models.tap import At

TOKENS = np.arange(12).reshape(2, 6)


@pytest.fixture
def run(tiny):
    """A forward pass that may be traced once."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(tokens, edits):
        return forward(tiny, tokens, edits=edits).logits

    return once


def test_one_program_for_every_layer_position_vector_and_operation(run):
    rng = np.random.default_rng(51)
    seen = []
    for layer, position in ((0, 0), (2, 5), (1, 2)):
        vector = rng.standard_normal(32)
        for edits in (
            patch("resid_post", vector, layers=layer, positions=position),
            steer("resid_post", vector, layers=layer, positions=position),
            steer("resid_post", vector, strength=7, layers=[layer], positions=[position]),
            ablate("resid_post", kind="mean", value=vector, layers=layer),
            patch("resid_post", jnp.asarray(vector, jnp.float32), positions=position),
            patch("resid_post", vector.tolist()),
            patch("resid_post", np.arange(32), layers=np.int64(layer)),
        ):
            seen.append(np.asarray(run(TOKENS, edits)))
    assert len({x.tobytes() for x in seen}) == len(seen), "each is another experiment"


def test_one_program_for_rows_that_differ(run):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        layers, positions = rng.integers(-1, 4, (2, 3)), rng.integers(0, 6, 2)
        value = rng.standard_normal((2, 4, 32))
        part = rng.random((2, 32)) < 0.5
        run(TOKENS, patch("mlp_out", value, layers=layers, positions=positions, part=part))


def test_one_program_for_every_injection(run):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        run(TOKENS, inject(rng.standard_normal((2, 32)), positions=rng.integers(-1, 6, 2)))


def test_one_program_for_captures_at_other_positions(tiny):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(tokens, positions):
        return forward(tiny, tokens, capture={"resid_post": At(positions)}).captures

    for positions in ([[0, 1], [2, 3]], [[5, -1], [0, 9]]):
        once(TOKENS, np.array(positions))


def test_generate_compiles_once_for_different_contents(tiny):
    before = _generate._cache_size()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        edits = patch("resid_post", rng.standard_normal(32), layers=seed, positions=seed)
        mask = rng.random(TOKENS.shape) < 0.7
        mask[:, -1] = True
        generate(
            tiny,
            rng.integers(0, 262, TOKENS.shape),
            mask=mask,
            edits=edits,
            max_new_tokens=4,
            end_ids=[seed],
        )
    assert _generate._cache_size() == before + 1
    for temperature, top_p in ((0.5, 1.0), (2.0, 0.3), (np.float32(1), 1)):
        generate(
            tiny,
            TOKENS,
            edits=edits,
            max_new_tokens=4,
            end_ids=[1],
            temperature=temperature,
            top_p=top_p,
            key=jax.random.key(seed),
        )
    assert _generate._cache_size() == before + 2
