"""Every way in against the same done by hand, in a NumPy decoder that shares nothing with ours."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.explainer.answer import answer, check_vectors, untrained
from selfx.explainer.injection import INJECTIONS, OWN, Way, inject
from selfx.explainer.injection.marker import embedding_length
from selfx.explainer.origin import Origin
from selfx.explainer.reader import Reader
from selfx.explainer.training import Training
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.tasks.example import SLOT, Example
from selfx.testing import tiny_config, tiny_model

ROWS, LENGTH, MOST = 4, 7, 3
SLOTS = np.array([[1, 4, 5], [6, -1, -1], [-1, -1, -1], [2, 3, -1]])
LAYERS = np.array([[0, 2, 2], [3, -1, -1], [-1, -1, -1], [1, 0, -1]])
WAYS = [Way("embedding"), Way("marker"), Way("add"), Way("overwrite")]
WAYS += [Way(name, 0.7, at) for name, at in (("embedding", OWN), ("marker", 1))]
WAYS += [Way(name, 1.5, 2) for name in ("add", "overwrite")]
WAYS += [Way("add", latest=1)]


def said(way):
    return f"{way.injection} {way.strength:g} {way.at} {way.latest}"


@pytest.fixture(scope="module")
def text(tiny):
    """Tokens, and vectors of lengths from 0.01 to 100; what no slot takes is not zero."""
    rng = np.random.default_rng(0)
    lengths = 10.0 ** rng.uniform(-2, 2, (ROWS, MOST, 1))
    vectors = lengths * rng.standard_normal((ROWS, MOST, tiny.config.d_model))
    return rng.integers(6, 250, (ROWS, LENGTH)), vectors.astype(np.float32)


@jax.jit
def plain(model, tokens):
    return forward(model, tokens, capture=("resid_post", "embeddings"))


def run(way, model, tokens, vectors, slots=SLOTS, layers=LAYERS, **more):
    edits = inject(way, model, None, vectors, slots, layers, **more)
    return forward(model, tokens, edits=edits, capture=("resid_post", "embeddings"))


jitted = jax.jit(run, static_argnums=0, static_argnames="depth")


def by_hand(oracle, w, model, way, ids, placed):
    """The run of one row; `placed` is `(vector, slot, layer)`, each put in where it belongs."""
    mean = np.linalg.norm(w["embed"], axis=1).mean()
    strength = way.strength or {"marker": 50.0}.get(way.injection, 1.0)

    def hook(site, layer, x):
        x = x.copy()
        for vector, slot, own in placed:
            v = vector.astype(np.float64)
            unit = v / np.linalg.norm(v) if v.any() else v
            if site == "embeddings" and way.injection == "embedding":
                x[slot] = strength * v
            if site == "embeddings" and way.injection == "marker":
                x[slot] = strength * mean * unit
            after = min(own, way.latest) if way.latest >= 0 else own
            if site == "resid_post" and layer == (after if way.at == OWN else way.at):
                if way.injection == "add":
                    x[slot] = x[slot] + strength * np.linalg.norm(x[slot]) * unit
                if way.injection == "overwrite":
                    x[slot] = strength * v
        return x

    return oracle.run(model, ids, hook, w)


@pytest.fixture(scope="module")
def w(tiny, numpy_llama):
    return numpy_llama.weights(tiny)


def close(one, other):
    assert np.abs(np.asarray(one) - other).max() <= 5e-5 * np.abs(other).max()


def agrees(numpy_llama, w, model, way, tokens, vectors, layers=LAYERS):
    """All rows of our run are what is done by hand, every residual of them."""
    out = jitted(way, model, tokens, vectors, SLOTS, layers)
    for row in range(ROWS):
        held = zip(vectors[row], SLOTS[row], layers[row], strict=True)
        placed = [(v, slot, layer) for v, slot, layer in held if slot >= 0]
        wanted = by_hand(numpy_llama, w, model, way, tokens[row], placed)
        close(out.captures["embeddings"][row], wanted.sites["embeddings"])
        for layer in range(model.config.n_layers):
            close(out.captures["resid_post"][layer, row], wanted.sites["resid_post"][layer])
        close(out.logits[row], wanted.logits)


@pytest.mark.parametrize("way", WAYS, ids=said)
def test_several_vectors_at_several_places_as_by_hand(tiny, text, numpy_llama, w, way):
    agrees(numpy_llama, w, tiny, way, *text)


@pytest.mark.parametrize("way", WAYS[:4], ids=said)
def test_a_vector_of_zeros_as_by_hand(tiny, text, numpy_llama, w, way):
    """It replaces by nothing, or adds nothing; its neighbours are as they were."""
    tokens, vectors = text
    vectors = vectors.copy()
    vectors[0, 1] = vectors[1, 0] = 0
    agrees(numpy_llama, w, tiny, way, tokens, vectors)


@pytest.mark.parametrize("way", WAYS, ids=said)
def test_where_there_is_no_placeholder_no_bit_changes(tiny, text, way):
    tokens, vectors = text
    out, before = jitted(way, tiny, tokens, vectors, SLOTS, LAYERS), plain(tiny, tokens)
    np.testing.assert_array_equal(out.captures["embeddings"][2], before.captures["embeddings"][2])
    others = np.ones((ROWS, LENGTH), bool)
    rows, columns = np.nonzero(SLOTS >= 0)
    others[rows, SLOTS[rows, columns]] = False
    seen, own = (np.asarray(o.captures["embeddings"]) for o in (out, before))
    np.testing.assert_array_equal(seen[others], own[others])
    close(out.logits[2], np.asarray(before.logits[2]))
    assert np.abs(out.logits[0] - before.logits[0]).max() > 0.05


@pytest.mark.parametrize("way", WAYS[:4], ids=said)
def test_what_stands_where_no_placeholder_is_does_not_matter(tiny, text, way):
    tokens, vectors = text
    spoilt = np.where((SLOTS >= 0)[..., None], vectors, np.float32(1e6))
    one = jitted(way, tiny, tokens, vectors, SLOTS, LAYERS).logits
    np.testing.assert_array_equal(jitted(way, tiny, tokens, spoilt, SLOTS, LAYERS).logits, one)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.grad, argnums=3)
def sensitivity(way, model, tokens, vectors):
    """Of the logits to the vectors."""
    edits = inject(way, model, None, vectors, SLOTS, LAYERS)
    return (forward(model, tokens, edits=edits).logits ** 2).mean()


@pytest.mark.parametrize("way", WAYS[:4], ids=said)
def test_gradients_reach_the_vectors_that_are_held_and_are_finite(tiny, text, way):
    tokens, vectors = text
    grads = np.abs(sensitivity(way, tiny, tokens, vectors))
    np.testing.assert_array_equal(grads.min(axis=-1) > 0, SLOTS >= 0)
    zeros = np.abs(sensitivity(way, tiny, tokens, 0 * vectors))
    assert np.isfinite(zeros).all()


def test_a_row_of_padding_whose_embedding_is_zero_has_a_finite_gradient(text):
    """Rows that fill a short batch are all padding; some families' padding token is zero."""
    tokens, vectors = text
    model = tiny_model()
    model = jax.tree.map(lambda x: x.at[0].set(0) if x.shape[0] == 262 else x, model)
    tokens = np.where(np.arange(ROWS)[:, None] == 2, 0, tokens)
    mask = np.arange(ROWS)[:, None] != np.full((1, LENGTH), 2)

    def total(model):
        edits = inject(Way("add"), model, None, vectors, SLOTS, LAYERS)
        logits = forward(model, tokens, mask=mask, edits=edits).logits
        return (jnp.where(mask[..., None], logits, 0) ** 2).mean()

    grads = jax.jit(jax.grad(total))(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_a_marked_vector_is_as_long_as_embeddings_that_a_family_scales(text):
    model = tiny_model(tiny_config(embed_scale=3.0))
    mean = 3 * np.linalg.norm(np.asarray(model.embed[...], float), axis=1).mean()
    np.testing.assert_allclose(embedding_length(model), mean, rtol=1e-6)
    tokens, vectors = text
    out = jitted(Way("marker", 2.0), model, tokens, vectors, SLOTS, LAYERS)
    seen = np.asarray(out.captures["embeddings"])[0, SLOTS[0]]
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 2 * mean, rtol=1e-5)


@pytest.mark.parametrize("way", [Way("marker", 3.0), Way("add", 3.0)], ids=said)
def test_it_is_read_while_an_answer_is_written(tiny, text, way):
    tokens, vectors = text
    edits = inject(way, tiny, None, vectors, SLOTS, LAYERS)
    written = np.asarray(generate(tiny, tokens, max_new_tokens=4, edits=edits).tokens)
    ids = np.concatenate([tokens, written], axis=1)
    out = jitted(way, tiny, ids, vectors, SLOTS, LAYERS)
    np.testing.assert_array_equal(out.logits[:, LENGTH - 1 : -1].argmax(axis=-1), written)
    untouched = plain(tiny, ids).logits[:, LENGTH - 1 : -1].argmax(axis=-1)
    assert (np.asarray(untouched) != written).any(axis=1)[[0, 1, 3]].all()


@pytest.mark.parametrize("name", INJECTIONS)
def test_one_program_serves_all_vectors_places_and_layers(tiny, text, name):
    tokens, vectors = text
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(model, vectors, slots, layers):
        edits = inject(Way(name), model, None, vectors, slots, layers)
        return forward(model, tokens, edits=edits).logits

    seen = {
        np.asarray(once(tiny, *arrays)).tobytes()
        for arrays in (
            (vectors, SLOTS, LAYERS),
            (2 - vectors, SLOTS, LAYERS),
            (vectors, SLOTS[::-1], LAYERS[::-1]),
            (vectors, np.where(SLOTS > 0, SLOTS - 1, SLOTS), LAYERS),
            (vectors, np.full_like(SLOTS, -1), LAYERS),
        )
    }
    assert len(seen) == 5, "each is another experiment"


@pytest.mark.parametrize("name", ["add", "overwrite"])
@pytest.mark.parametrize(("depth", "layers"), [(7, 4), (4, 7), (2, 4), (9, 3), (4, 4), (1, 4)])
def test_a_vector_goes_in_at_the_same_share_of_another_depth(name, depth, layers):
    """The first layer is the first, the last the last, and what is between within half a layer."""
    model = tiny_model(tiny_config(n_layers=layers))
    own = np.arange(depth)[None]
    slots = np.arange(depth)[None] % 5
    vectors = np.ones((1, depth, 32), np.float32)
    (edit,) = inject(Way(name), model, None, vectors, slots, own, depth=depth).get("resid_post")
    mapped = np.asarray(edit.layers)[0]
    share = own[0] / (depth - 1) if depth > 1 else np.ones(1)
    assert np.abs(mapped - share * (layers - 1)).max() <= 0.5
    assert mapped[-1] == layers - 1
    assert depth == 1 or mapped[0] == 0
    (none,) = inject(Way(name), model, None, vectors, slots, -1 - 0 * own, depth=depth)[
        "resid_post"
    ]
    assert (np.asarray(none.layers) == -1).all()


def test_one_layer_for_all_is_the_explainers_own_whatever_the_targets_depth(tiny, text):
    tokens, vectors = text
    there = jitted(Way("add", at=3), tiny, tokens, vectors, SLOTS, LAYERS, depth=20)
    here = jitted(Way("add", at=3), tiny, tokens, vectors, SLOTS, LAYERS)
    np.testing.assert_array_equal(there.logits, here.logits)


def test_a_reader_counts_the_targets_layers(tiny):
    """Layer 18 of 20 goes in after layer 3 of 4, through what the reader has for layer 18."""
    bias = np.zeros((20, 32), np.float32)
    bias[18, 4] = 2.0
    reader = Reader(bias=jnp.asarray(bias))
    vectors = np.eye(32, dtype=np.float32)[None, :1]
    (edit,) = inject(Way("overwrite"), tiny, reader, vectors, [[0]], [[18]], depth=20)["resid_post"]
    np.testing.assert_allclose(edit.values[0, 0, [0, 4, 5]], [1, 2, 0], atol=1e-6)
    assert int(edit.layers[0, 0]) == 3


def example(vectors, layers, places=1):
    question = " ".join([SLOT] * places)
    about = "e1", "t", "test", "g", "c", "", (question,), "a", False, ""
    return Example(*about, np.asarray(vectors, np.float32), {}, layers=layers)


def test_a_layer_that_is_not_the_targets_is_refused_where_it_matters(tiny_lm):
    explainers = {
        name: untrained(tiny_lm, Training(style="plain", injection=name)) for name in INJECTIONS
    }
    for layers in ((2, -1), (4, 2), ()):
        lost = example(np.ones((2, 32)), layers)
        for name, injection in INJECTIONS.items():
            if not injection.layered:
                check_vectors([lost], explainers[name])
                continue
            with pytest.raises(SelfxError, match="layer (-1|4|unknown)"):
                check_vectors([lost], explainers[name])
            fixed = Training(style="plain", injection=name, at=1)
            check_vectors([lost], dataclasses.replace(explainers[name], training=fixed))
    check_vectors([example(np.ones((2, 32)), (0, 3))], explainers["add"])
    deep = dataclasses.replace(explainers["add"], origin=Origin(32, 9))
    check_vectors([example(np.ones((1, 32)), (8,))], deep)


def test_a_layer_that_the_explainer_lacks_is_refused(tiny_lm):
    asked = untrained(tiny_lm, Training(style="plain", injection="add", at=4))
    with pytest.raises(SelfxError, match="after layer 4"):
        check_vectors([example(np.ones((1, 32)), (1,))], asked)


@pytest.mark.parametrize(("vectors", "places"), [(2, 3), (3, 2), (1, 2), (1, 0)])
def test_more_or_fewer_vectors_than_places_cannot_be_asked(tiny_lm, vectors, places):
    asked = untrained(tiny_lm, Training(style="plain"))
    made = example(np.ones((vectors, 32)), (1,) * vectors, places)
    with pytest.raises(SelfxError, match=f"{places} times"):
        answer(asked, [made])


@pytest.mark.parametrize("given", [(1, 32), (3, 32), (2, 20), (2,)])
def test_other_vectors_than_a_question_has_places_for_are_refused(tiny_lm, given):
    asked = untrained(tiny_lm, Training(style="plain"))
    made = example(np.ones((2, 32)), (1, 1), 2)
    with pytest.raises(SelfxError, match="vectors"):
        answer(asked, [made], np.ones((1, *given), np.float32), max_new_tokens=1)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (Way("layer"), "injection 'layer'"),
        (Way("add", -1.0), "strength"),
        (Way("add", float("nan")), "strength"),
        (Way("add", at=-2), "layer -2"),
        (Way("add", latest=-2), "layer -2"),
    ],
)
def test_ways_that_there_are_not(way, message):
    with pytest.raises(SelfxError, match=message):
        way.check()
