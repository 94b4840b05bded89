"""A planted relation is found, and what is reported is what others compute."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import paired_cosine_distances

from selfx.errors import SelfxError
from selfx.explainer.projection.fit import fit_projection
from selfx.explainer.projection.pairing import paired_texts
from selfx.explainer.projection.ridge import ridge
from selfx.models.decoder import forward
from selfx.models.parameters import from_parameters, parameter_shapes
from selfx.testing import tiny_config

READ, WRITTEN = {"attn_norm": ("q", "k", "v"), "mlp_norm": ("gate", "up")}, ("o", "down")


def leaves(model):
    """`{path: float64 array}`."""
    found, _ = jax.tree_util.tree_flatten_with_path(model)
    named = ((jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in found)
    return {name.removesuffix(".value"): np.asarray(x, np.float64) for name, x in named}


def widened(model, width):
    """`(model, config, e)`: a wider, deeper model whose even layers hold `c * x @ e`.

    `e` `[d, width]` has orthonormal rows and `c` makes up for the norm's mean over more numbers;
    its odd layers write nothing.
    """
    old, w = model.config, leaves(model)
    config = dataclasses.replace(old, d_model=width, n_layers=2 * old.n_layers - 1)
    e = np.linalg.qr(np.random.default_rng(5).standard_normal((width, old.d_model)))[0].T
    c = np.sqrt(width / old.d_model)
    new = {"embed": c * w["embed"] @ e, "final_norm.w": np.ones(width)}
    new["unembed.w"] = e.T @ (w["final_norm.w"][:, None] * w["unembed.w"]) / c
    for norm, maps in READ.items():
        new[f"blocks.{norm}.w"] = np.ones((old.n_layers, width))
        for name in maps:
            scaled = w[f"blocks.{norm}.w"][..., None] * w[f"blocks.{name}.w"]
            new[f"blocks.{name}.w"] = e.T @ scaled / c
    for name in WRITTEN:
        new[f"blocks.{name}.w"] = c * w[f"blocks.{name}.w"] @ e
    for path in [path for path in new if path.startswith("blocks.")]:
        deep = np.repeat(new[path], 2, axis=0)[:-1]
        if path.split(".")[1] in WRITTEN:
            deep[1::2] = 0
        new[path] = deep
    assert {path: leaf.shape for path, leaf in parameter_shapes(config, jnp.float32).items()} == {
        path: leaf.shape for path, leaf in new.items()
    }
    new = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in new.items()}
    return from_parameters(config, new, jnp.float32), config, e


@pytest.fixture(scope="module")
def target(lm_of):
    return lm_of(tiny_config(), name="target")


@pytest.fixture(scope="module")
def other(lm_of, merging):
    """A model of another tokenizer, width and depth, not related to the target."""
    config = tiny_config(d_model=24, n_layers=3, vocab_size=400)
    return lm_of(config, 7, name="other", tokenizer=merging)


@jax.jit
def _residuals(model, tokens):
    return forward(model, tokens, capture=["resid_post"]).captures["resid_post"]


def residuals(lm, ids):
    """float64 `[l, t, d]` of one text, at length 1."""
    tokens = np.zeros((1, 128), np.int32)
    tokens[0, : len(ids)] = ids
    x = np.asarray(_residuals(lm.model, tokens), np.float64)[:, 0, : len(ids)]
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def states(target, explainer, texts):
    """`(x [l, n, d], y [l, n, d], text [n])`, a text at a time, all states kept."""
    xs, ys, numbers = [], [], []
    for piece in paired_texts(target, explainer, texts, limit=10**6):
        xs.append(residuals(target, piece.target)[:, piece.places[:, 0]])
        ys.append(residuals(explainer, piece.explainer)[:, piece.places[:, 1]])
        numbers += [piece.text] * len(piece.places)
    return np.concatenate(xs, axis=1), np.concatenate(ys, axis=1), np.array(numbers)


def test_a_planted_relation_is_found_in_a_wider_and_deeper_model(lm_of, target, texts):
    model, config, e = widened(target.model, 48)
    explainer = lm_of(config, name="wide", model=model)
    found = fit_projection(target, explainer, texts, strengths=(1e-6,))
    assert found.layers == (0, 2, 4, 6)
    for matrix in found.matrices:
        np.testing.assert_allclose(matrix, e, atol=2e-3)
    assert min(found.r2) > 0.9999
    assert min(found.cosine) > 0.9999


def test_the_fit_and_its_figures_are_scikit_learns(target, other, texts):
    """Against all states at once: the map of nine texts in ten, the figures of the tenth."""
    strength = 1e-2
    found = fit_projection(target, other, texts, strengths=(strength,))
    x, y, number = states(target, other, texts)
    held = number % 10 == 9
    assert found.layers == (0, 1, 1, 2)
    for layer, depth in enumerate(found.layers):
        fitted, answer = x[layer, ~held], y[depth, ~held]
        alpha = strength * (fitted**2).sum() / fitted.shape[1]
        oracle = Ridge(alpha, fit_intercept=False, solver="svd").fit(fitted, answer)
        guess, answer = oracle.predict(x[layer, held]), y[depth, held]
        np.testing.assert_allclose(found.matrices[layer], oracle.coef_.T, atol=5e-5)
        r2 = r2_score(answer, guess, multioutput="variance_weighted")
        cosine = 1 - paired_cosine_distances(answer, guess).mean()
        np.testing.assert_allclose([found.r2[layer], found.cosine[layer]], [r2, cosine], atol=5e-5)


def test_each_layer_has_the_strength_that_does_best_on_the_texts_held_out(target, other, texts):
    strengths = (1e-4, 1e-1, 10.0)
    alone = [fit_projection(target, other, texts, strengths=(one,)).r2 for one in strengths]
    found = fit_projection(target, other, texts, strengths=strengths)
    np.testing.assert_allclose(found.r2, np.max(alone, axis=0), atol=1e-6)
    best = [strengths[i] for i in np.argmax(alone, axis=0)]
    assert list(found.strengths) == best


def test_ridge_is_scikit_learns_where_directions_are_many_times_weaker_than_others():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)) * np.geomspace(1, 1e-3, 12)
    y = rng.standard_normal((200, 5))
    for strength in (1e-6, 1e-2):
        alpha = strength * (x**2).sum() / 12
        oracle = Ridge(alpha, fit_intercept=False, solver="svd").fit(x, y).coef_.T
        np.testing.assert_allclose(ridge(x.T @ x, x.T @ y, strength), oracle, rtol=1e-6)


def test_sums_that_are_no_numbers_and_strengths_below_zero_are_refused():
    eye = np.eye(3)
    with pytest.raises(SelfxError, match="not finite"):
        ridge(np.where(eye > 0, np.nan, 0), eye, 0.1)
    with pytest.raises(SelfxError, match="strength -1"):
        ridge(eye, eye, -1)
    with pytest.raises(SelfxError, match="too small"):
        ridge(np.array([[1.0, 2.0], [2.0, 1.0]]), np.eye(2), 1e-6)


def broken(lm, path, index):
    """The model with one number that is none."""
    parameters = {name: jnp.asarray(x, jnp.float32) for name, x in leaves(lm.model).items()}
    parameters[path] = parameters[path].at[index].set(jnp.nan)
    model = from_parameters(lm.config, parameters, jnp.float32)
    return dataclasses.replace(lm, model=model)


def test_states_that_are_not_finite_are_refused_with_the_model_and_layer(target, other, texts):
    weight = ("blocks.down.w", (2, 0, 0))
    with pytest.raises(SelfxError, match="states of target that are not finite, at layer 2"):
        fit_projection(broken(target, *weight), other, texts)
    with pytest.raises(SelfxError, match="states of other that are not finite, at layer 3"):
        fit_projection(target, broken(other, *weight), texts)


def test_states_that_are_not_finite_in_a_text_held_out_alone_are_refused(target, other, texts):
    rare = target.tokenizer("#").input_ids[0]
    texts = [text + " #" * (i == 19) for i, text in enumerate(texts)]
    with pytest.raises(SelfxError, match="not finite in a text held out"):
        fit_projection(broken(target, "embed", rare), other, texts)


def test_too_few_texts_to_hold_one_out_and_no_strength_are_refused(target, other, texts):
    with pytest.raises(SelfxError, match="9 texts with tokens to pair"):
        fit_projection(target, other, texts[:9])
    with pytest.raises(SelfxError, match="no strength"):
        fit_projection(target, other, texts, strengths=())


def test_a_limit_reads_less(target, other, texts):
    told = []
    fit_projection(
        target, other, texts, limit_tokens=300, report=lambda *about: told.append(about[:2])
    )
    everything = len(paired_texts(target, other, texts, limit=10**6))
    total = told[0][1]
    assert total < everything
    assert told[-1] == (total, total)
