"""Vectors added at the layer that they are from, against the same sum made by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.fit import check_vectors
from selfx.explainer.injection import injection
from selfx.interventions.build import patch
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.tasks.example import Example

ROWS, LENGTH, STRENGTH = 4, 7, 0.5
SLOTS = np.array([1, 4, -1, 6])
LAYERS = np.array([0, 2, 1, 3])


@pytest.fixture(scope="module")
def text(tiny):
    rng = np.random.default_rng(0)
    vectors = 100 * rng.standard_normal((ROWS, tiny.config.d_model)).astype(np.float32)
    return rng.integers(6, 250, (ROWS, LENGTH)), vectors


@jax.jit
def added(model, tokens, vectors, slots, layers):
    edits = injection(model, vectors, slots, "layer", STRENGTH, layers)
    return forward(model, tokens, edits=edits, capture=("resid_post",))


def test_a_vector_is_added_at_its_layer_and_slot_at_the_length_of_the_residual(tiny, text):
    tokens, vectors = text
    out = added(tiny, tokens, vectors, SLOTS, LAYERS)
    plain = forward(tiny, tokens, capture=("resid_post",))
    for row, (slot, layer) in enumerate(zip(SLOTS, LAYERS, strict=True)):
        if slot < 0:
            np.testing.assert_allclose(out.logits[row], plain.logits[row], atol=1e-5)
            continue
        x = np.asarray(plain.captures["resid_post"][layer, row, slot], np.float64)
        v = vectors[row].astype(np.float64)
        wanted = x + STRENGTH * np.linalg.norm(x) * v / np.linalg.norm(v)
        seen = out.captures["resid_post"][layer, row, slot]
        np.testing.assert_allclose(seen, wanted, rtol=1e-4, atol=1e-4)
        edits = patch("resid_post", jnp.asarray(wanted, jnp.float32), layers=layer, positions=slot)
        alone = forward(tiny, tokens[row : row + 1], edits=edits)
        np.testing.assert_allclose(out.logits[row], alone.logits[0], rtol=1e-3, atol=1e-4)


def test_zeros_add_nothing_and_have_a_gradient(tiny, text):
    tokens, vectors = text
    out = added(tiny, tokens, 0 * vectors, SLOTS, LAYERS)
    np.testing.assert_allclose(out.logits, forward(tiny, tokens).logits, atol=1e-5)

    def total(v):
        return added(tiny, tokens, v, SLOTS, LAYERS).logits.sum()

    assert np.isfinite(jax.grad(total)(jnp.zeros_like(vectors))).all()


def test_one_program_serves_every_layer_and_place(tiny, text):
    tokens, vectors = text
    added(tiny, tokens, vectors, SLOTS, LAYERS)
    traces = added._cache_size()
    added(tiny, tokens, vectors, SLOTS[::-1].copy(), LAYERS[::-1].copy())
    assert added._cache_size() == traces


def test_it_is_read_while_an_answer_is_written(tiny, text):
    tokens, vectors = text
    edits = injection(tiny, vectors, SLOTS, "layer", 3.0, LAYERS)
    written = generate(tiny, tokens, max_new_tokens=4, edits=edits).tokens
    for row in range(ROWS):
        ids = tokens[row : row + 1]
        at = SLOTS[row : row + 1], "layer", 3.0, LAYERS[row : row + 1]
        for step in range(4):
            edits = injection(tiny, vectors[row : row + 1], *at)
            token = forward(tiny, ids, edits=edits).logits[0, -1].argmax()
            assert token == written[row, step]
            ids = np.concatenate([ids, [[int(token)]]], axis=1)


def test_a_layer_that_the_explainer_lacks_is_refused(tiny_lm):
    vector = np.ones(tiny_lm.config.d_model, np.float32)
    example = Example("e1", "t", "test", "g", "c", "", ("q",), "a", False, "", vector, {}, layer=2)
    check_vectors([example], tiny_lm, "layer")
    for layer in (-1, 4):
        lost = dataclasses.replace(example, layer=layer)
        with pytest.raises(SelfxError, match=f"layer {layer}"):
            check_vectors([lost], tiny_lm, "layer")
        check_vectors([lost], tiny_lm, "matched")
