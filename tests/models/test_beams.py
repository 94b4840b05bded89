"""Beams against a search written with lists, one whole run of the model for each continuation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import selfx
from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.lora import Lora
from selfx.interventions.build import patch
from selfx.models.beams import beams
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.testing import tiny_config, tiny_model

STEPS = 5
ENDS = (3, 11)


@pytest.fixture(scope="module")
def small():
    """A model of few words, sure enough of some of them for continuations to end."""
    return tiny_model(tiny_config(vocab_size=23))


@pytest.fixture(scope="module")
def prompts():
    return np.random.default_rng(5).integers(4, 23, (4, 6))


@pytest.fixture(scope="module")
def following(small):
    """A function from a text to the log-probabilities of the next token, nothing cached."""
    run = jax.jit(forward)

    def next_of(text, edits=None):
        tokens = np.zeros((1, 6 + STEPS), int)
        tokens[0, : len(text)] = text
        logits = run(small, tokens, mask=np.arange(6 + STEPS)[None] < len(text), edits=edits).logits
        return log_softmax(np.asarray(logits[0, len(text) - 1], np.float64))

    return next_of


def searched(following, prompt, width, limit, ends=ENDS):
    """`(log-probability, tokens, whether it ended)` of each beam, the likeliest first."""
    kept = [(0.0, (), False)]
    for _ in range(limit):
        more = [beam for beam in kept if beam[2]]
        for score, said, ended in kept:
            if not ended:
                scores = following([*prompt, *said])
                for token, extra in enumerate(scores):
                    over = token in ends
                    more.append((score + extra, said if over else (*said, token), over))
        kept = sorted(more, key=lambda beam: -beam[0])[:width]
        if kept[0][2]:
            break
    return kept


def read(found, row):
    return [
        (float(score), tuple(int(t) for t in said if t >= 0), bool(over))
        for score, said, over in zip(
            found.log_probabilities[row], found.tokens[row], found.ended[row], strict=True
        )
    ]


def same(got, want):
    assert [beam[1:] for beam in got] == [beam[1:] for beam in want]
    np.testing.assert_allclose([b[0] for b in got], [b[0] for b in want], atol=2e-5)


@pytest.mark.parametrize("width", [2, 4])
def test_they_are_those_of_a_search_with_lists(small, prompts, following, width):
    for prompt in prompts:
        found = beams(small, prompt[None], width=width, max_new_tokens=STEPS, end_ids=ENDS)
        same(read(found, 0), searched(following, prompt, width, STEPS))


def test_wide_enough_it_is_the_likeliest_of_all(small, prompts, following):
    """Of two tokens, all pairs there are."""
    first = following(prompts[0])
    second = np.stack([following([*prompts[0], token]) for token in range(23)])
    pairs = first[:, None] + second
    found = beams(small, prompts[:1], width=23, max_new_tokens=2)
    order = np.argsort(-pairs, axis=None)[:23]
    assert found.tokens[0].tolist() == np.stack(np.unravel_index(order, (23, 23)), 1).tolist()
    np.testing.assert_allclose(found.log_probabilities[0], pairs.ravel()[order], atol=2e-5)


def test_of_one_token_it_is_the_likeliest_tokens(small, prompts, following):
    found = beams(small, prompts, width=3, max_new_tokens=1, end_ids=ENDS)
    for row, prompt in enumerate(prompts):
        same(read(found, row), searched(following, prompt, 3, 1))


def test_adapters_beside_are_adapters_merged(small, prompts):
    fresh = lora.init(small.config, rank=2, alpha=8.0, key=jax.random.key(0))
    adapters = {n: Lora(x.a, 0.2 * jnp.ones_like(x.b), x.scale) for n, x in fresh.items()}
    how = {"width": 3, "max_new_tokens": STEPS, "end_ids": ENDS}
    beside = beams(small, prompts, lora=adapters, **how)
    merged = beams(lora.merge(small, adapters), prompts, **how)
    np.testing.assert_allclose(beside.log_probabilities, merged.log_probabilities, atol=1e-4)
    assert beside.tokens.tolist() == merged.tokens.tolist()
    assert beside.tokens.tolist() != beams(small, prompts, **how).tokens.tolist()


def test_one_beam_is_greedy(small, prompts):
    found = beams(small, prompts, width=1, max_new_tokens=STEPS, end_ids=ENDS)
    greedy = generate(small, prompts, max_new_tokens=STEPS, end_ids=ENDS)
    assert found.tokens[:, 0].tolist() == greedy.tokens.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_company_move_nothing(small, prompts, following, side):
    """Rows of several lengths side by side, each as alone; one ends long before the others."""
    lengths, width = (2, 6, 4, 3), 8
    tokens, mask = np.zeros((4, width), int), np.zeros((4, width), bool)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        where = slice(width - length, None) if side == "left" else slice(length)
        tokens[row, where], mask[row, where] = prompt[:length], True
    found = beams(small, tokens, width=3, max_new_tokens=STEPS, mask=mask, end_ids=ENDS)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        same(read(found, row), searched(following, prompt[:length], 3, STEPS))


def test_edits_of_the_text_are_met_and_layers_apart_change_nothing(small, prompts, following):
    vectors = 6 * np.random.default_rng(6).standard_normal((4, small.config.d_model))
    edits = patch("resid_post", vectors, layers=1, positions=[2, 3, 4, 5])
    how = {"width": 3, "max_new_tokens": STEPS, "end_ids": ENDS}
    found = beams(small, prompts, edits=edits, **how)
    for row, prompt in enumerate(prompts):
        own = patch("resid_post", vectors[row], layers=1, positions=row + 2)
        alone = searched(lambda text, own=own: following(text, own), prompt, 3, STEPS)
        assert read(found, row)[0][1:] == alone[0][1:]
    plain = beams(small, prompts, **how)
    assert plain.tokens.tolist() != found.tokens.tolist(), "the edits are too weak"
    apart = beams(small, prompts, edits=edits, layers=selfx.apart(small), **how)
    assert apart.tokens.tolist() == found.tokens.tolist()


@pytest.mark.parametrize(("width", "limit"), [(0, 3), (24, 3), (2, 0)])
def test_what_cannot_be_is_refused(small, prompts, width, limit):
    with pytest.raises(SelfxError, match="beams|max_new_tokens"):
        beams(small, prompts, width=width, max_new_tokens=limit)
