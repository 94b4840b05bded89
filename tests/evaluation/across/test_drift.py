"""How far two models are apart, against NumPy and worked examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

import selfx
from selfx.errors import SelfxError
from selfx.evaluation.across.drift import (
    Answers,
    answer_drift,
    next_drift,
    text_drift,
    weight_drift,
)
from selfx.testing import tiny_config, tiny_model

TEXTS = [list(range(7, 16)), list(range(40, 45)), list(range(100, 112)), [9, 8, 7]]


@pytest.fixture(scope="module")
def pair():
    """A model, and the same with its weights moved a little."""
    before = tiny_model(tiny_config(n_layers=2))
    rng = np.random.default_rng(0)
    moved = lambda x: x + 0.05 * jnp.asarray(rng.standard_normal(x.shape), x.dtype)  # noqa: E731
    return before, jax.tree.map(moved, before)


def logits(model, text):
    padded = np.array([text + [0] * (16 - len(text))])
    mask = np.arange(16)[None] < len(text)
    out = jax.jit(selfx.forward)(model, padded, mask=mask)
    return np.asarray(out.logits[0, : len(text)], np.float64)


def test_texts_and_next_tokens_are_those_of_each_text_alone(pair):
    found = text_drift(*pair, TEXTS, batch_size=3).values
    nexts = next_drift(*pair, TEXTS, batch_size=3)
    for row, text in enumerate(TEXTS):
        old, new = (log_softmax(logits(model, text), axis=-1) for model in pair)
        differs = old.argmax(-1) != new.argmax(-1)
        kl = rel_entr(np.exp(old), np.exp(new)).sum(-1).mean()
        assert found["differs"][row] == pytest.approx(differs.mean())
        assert found["kl"][row] == pytest.approx(kl, rel=1e-3)
        assert nexts[row] == differs[-1]
    assert 0 < found["differs"].mean() < 1


def test_weights_that_grow_by_a_tenth_have_moved_by_a_tenth(pair):
    before, after = pair
    found = weight_drift(before, jax.tree.map(lambda x: 1.1 * x, before))
    assert list(found.values()) == pytest.approx([0.1] * len(found), rel=1e-4)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(m)]) for m in pair]
    far = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    assert weight_drift(before, after)["all"] == pytest.approx(far, rel=1e-5)
    with pytest.raises(SelfxError, match="different architectures"):
        weight_drift(before, tiny_model(tiny_config(n_layers=3)))


def answers(plain, hinted, hints=(0, 1, 2, 3)):
    group = np.array(list("abcd"), object)
    return Answers(np.array(plain), np.array(hinted), np.array(hints), group)


def test_answers_worked_by_hand():
    before = answers([0, 0, 0, 0], [0, 0, 2, 1])
    after = answers([0, 0, 1, 0], [0, 1, 2, 3])
    found = {name: column.tolist() for name, column in answer_drift(before, after).values.items()}
    assert found == {
        "differs": [0, 1, 0, 1],
        "differs_plain": [0, 0, 1, 0],
        "differs_verdict": [0, 1, 0, 0],
        "differs_truth": [0, 1, 1, 0],
        "follows_before": [1, 0, 1, 0],
        "follows_after": [1, 1, 1, 1],
    }
    with pytest.raises(SelfxError, match="different questions"):
        answer_drift(before, answers([0] * 4, [0] * 4, hints=(3, 2, 1, 0)))
