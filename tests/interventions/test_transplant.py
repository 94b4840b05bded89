"""States carried into another prompt: as the float64 model writes on with the same state put in."""

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.transplant import LinearMap, patchscope, read_state, transplant
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.testing import tiny_config, tiny_model

TOLERANCE = 5e-5
NEW = 4


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(1).integers(6, 262, (3, 7))


@pytest.fixture(scope="module")
def prompt():
    return np.random.default_rng(2).integers(6, 262, (1, 5))


@pytest.fixture(scope="module")
def wide():
    """Another model, half as wide again and of other depth."""
    return tiny_model(tiny_config(d_model=48, n_layers=3), seed=5)


def written(numpy_llama, model, prompt, state, layer, position):
    """Greedy tokens of the oracle with `state` `[d]` put in."""

    def hook(site, at, x):
        if (site, at) == ("resid_post", layer):
            x = x.copy()
            x[position] = state
        return x

    return numpy_llama.greedy(model, prompt, NEW, hook)


def test_a_state_is_read_where_it_stands_in_each_row(tiny, texts, numpy_llama):
    layers, positions = np.array([0, 3, 2]), np.array([6, 0, 4])
    got = read_state(tiny, texts, layer=layers, position=positions)
    for row in range(3):
        sites = numpy_llama.run(tiny, texts[row]).sites
        want = sites["resid_post"][layers[row], positions[row]]
        assert np.abs(got[row] - want).max() <= TOLERANCE * np.abs(want).max()
    padded = np.concatenate([np.full((3, 2), 9), texts], axis=1)
    mask = np.tile(np.arange(9) >= 2, (3, 1))
    again = read_state(tiny, padded, mask=mask, layer=layers, position=positions)
    np.testing.assert_allclose(again, got, atol=1e-5)
    heads = read_state(tiny, texts, layer=1, position=2, site="z")
    assert heads.shape == (3, 4, 8)


def test_within_a_model(tiny, texts, prompt, numpy_llama):
    """Source layer and position, target layer and position, all of them different in every row."""
    where = {"source_layer": [1, 2, 3], "source_position": [6, 2, 5]}
    to = {"layer": [0, 1, 2], "position": [4, 2, 4]}
    got = patchscope(tiny, texts, prompt, **where, **to, max_new_tokens=NEW).tokens
    assert len(set(map(tuple, got.tolist()))) > 1
    for row in range(3):
        sites = numpy_llama.run(tiny, texts[row]).sites
        state = sites["resid_post"][where["source_layer"][row], where["source_position"][row]]
        want = written(numpy_llama, tiny, prompt[0], state, to["layer"][row], to["position"][row])
        assert got[row].tolist() == want


def test_into_another_model_through_a_map(tiny, wide, texts, prompt, numpy_llama):
    rng = np.random.default_rng(3)
    w, b = rng.standard_normal((32, 48)).astype(np.float32), rng.standard_normal(48)
    got = patchscope(
        tiny, texts, prompt, source_layer=2, source_position=3, layer=1, position=2,
        map=LinearMap(w, b.astype(np.float32)), reader=wide, max_new_tokens=NEW,
    ).tokens  # fmt: skip
    for row in range(3):
        state = numpy_llama.run(tiny, texts[row]).sites["resid_post"][2, 3] @ w + b
        assert got[row].tolist() == written(numpy_llama, wide, prompt[0], state, 1, 2)


def test_to_where_it_came_from_it_changes_nothing(tiny, texts):
    """To the bit; and under the identity as a map."""
    run = jax.jit(forward)
    state = read_state(tiny, texts, layer=2, position=4)
    plain = run(tiny, texts).logits
    edits = transplant(state, tiny, layer=2, position=4)
    np.testing.assert_array_equal(run(tiny, texts, edits=edits).logits, plain)
    edits = transplant(
        state, tiny, layer=2, position=4, map=LinearMap(np.eye(32, dtype=np.float32))
    )
    np.testing.assert_array_equal(run(tiny, texts, edits=edits).logits, plain)


def test_settings_of_generate_and_a_padded_prompt(tiny, texts, prompt):
    where = {"source_layer": 1, "source_position": 6, "layer": 0, "position": 4}
    want = patchscope(tiny, texts, prompt, **where, max_new_tokens=NEW)
    padded = np.concatenate([np.full((1, 3), 9), prompt], axis=1)
    mask = np.arange(8)[None] >= 3
    got = patchscope(tiny, texts, padded, mask=mask, **where, max_new_tokens=NEW)
    assert got.tokens.tolist() == want.tokens.tolist()
    end = int(want.tokens[0, 1])
    short = patchscope(tiny, texts, prompt, **where, max_new_tokens=NEW, end_ids=[end])
    assert short.lengths[0] == 1
    key = jax.random.key(0)
    drawn = patchscope(
        tiny, texts, prompt, **where, max_new_tokens=NEW, temperature=2.0, key=key
    ).tokens
    edits = transplant(read_state(tiny, texts, layer=1, position=6), tiny, layer=0, position=4)
    again = generate(
        tiny, np.repeat(prompt, 3, 0), max_new_tokens=NEW, edits=edits, temperature=2.0, key=key
    ).tokens
    assert drawn.tolist() == again.tolist()


def test_under_jit_and_vmap_over_source_layers(tiny, texts, prompt):
    @jax.jit
    def grid(model, layers):
        def one(layer):
            state = read_state(model, texts, layer=layer, position=6)
            edits = transplant(state, model, layer=layer, position=4)
            return forward(model, np.repeat(prompt, 3, 0), edits=edits).logits[:, -1]

        return jax.vmap(one)(layers)

    got = grid(tiny, np.arange(4))
    state = read_state(tiny, texts, layer=2, position=6)
    edits = transplant(state, tiny, layer=2, position=4)
    want = jax.jit(forward)(tiny, np.repeat(prompt, 3, 0), edits=edits).logits[:, -1]
    np.testing.assert_allclose(got[2], want, atol=2e-5)
    assert np.abs(got[1] - got[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_layer": 4}, ["layer 4", "0 to 3"]),
        ({"source_position": 7}, ["position 7", "0 to 6"]),
        ({"source_position": -1}, ["position -1"]),
        ({"source_position": [1, 2]}, ["position", "[2]", "1 or 3"]),
        ({"layer": 4}, ["layer 4", "0 to 3"]),
        ({"position": 99}, ["position 99"]),
        ({"map": LinearMap(np.ones((48, 32)))}, ["[48, 32]", "width 32", "transpose"]),
        ({"map": LinearMap(np.ones((32, 32)), np.ones(3))}, ["bias of [3]"]),
        ({"map": LinearMap(np.ones((32, 40)))}, ["[3, 40]", "[b, 32]"]),
        ({"reader": "wide"}, ["[3, 32]", "[b, 48]", "map="]),
        ({"prompt": np.ones((2, 5), int)}, ["2 prompts", "1 or 3"]),
        ({"site": "embeddings"}, ["outside the layers"]),
    ],
)
def test_what_does_not_fit_raises(tiny, wide, texts, prompt, changes, words):
    where = {"source_layer": 1, "source_position": 6, "layer": 0, "position": 4, "prompt": prompt}
    where |= changes
    if "reader" in where:
        where["reader"] = wide
    with pytest.raises(SelfxError) as caught:
        patchscope(tiny, texts, where.pop("prompt"), **where, max_new_tokens=1)
    for word in words:
        assert word in str(caught.value)
