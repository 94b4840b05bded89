"""Continuations: where they end, what they sample, and that nothing but the text matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.build import patch, steer
from selfx.models.decoder import forward
from selfx.models.generate import generate

STEPS = 6


@pytest.fixture(scope="module")
def prompts():
    return np.random.default_rng(11).integers(6, 262, (3, 7))


@pytest.fixture(scope="module")
def greedy(tiny, prompts):
    """What each prompt continues with, one token at a time and nothing cached."""
    width = prompts.shape[1] + STEPS
    run = jax.jit(forward)

    def continue_(edits=None):
        tokens = np.zeros((len(prompts), width), int)
        tokens[:, : prompts.shape[1]] = prompts
        for end in range(prompts.shape[1], width):
            mask = np.broadcast_to(np.arange(width) < end, tokens.shape)
            tokens[:, end] = np.asarray(run(tiny, tokens, mask=mask, edits=edits).logits)[
                :, end - 1
            ].argmax(axis=-1)
        return tokens[:, prompts.shape[1] :]

    return continue_


@pytest.fixture(scope="module")
def want(greedy):
    return greedy()


def test_greedy_is_the_uncached_argmax(tiny, prompts, want):
    out = generate(tiny, prompts, max_new_tokens=STEPS)
    assert out.tokens.dtype == out.lengths.dtype == jnp.int32
    assert out.tokens.tolist() == want.tolist()
    assert out.lengths.tolist() == [STEPS] * 3


def test_edits_act_on_the_prompt_and_on_what_is_generated(tiny, prompts, want, greedy):
    """One edit before the end of the prompt, one at a generated position, one everywhere."""
    vector = np.random.default_rng(12).standard_normal((3, 32)) * 8
    edits = (
        patch("resid_post", vector, layers=1, positions=[2, 6, 8])
        | steer("mlp_out", vector[0], layers=[0, 3])
        | patch("z", 0, layers=2, positions=9)
    )
    edited = greedy(edits)
    assert (edited != want).any(axis=1).all(), "the edits are too weak to test anything"
    assert generate(tiny, prompts, max_new_tokens=STEPS, edits=edits).tokens.tolist() == (
        edited.tolist()
    )


def test_an_edit_of_a_generated_position_comes_too_late_for_its_own_token(tiny, prompts, want):
    """Position 8 holds the second new token: it, and what came before, stay as they were."""
    edits = patch("resid_post", 100 * np.eye(32)[5], positions=8)
    got = np.asarray(generate(tiny, prompts, max_new_tokens=STEPS, edits=edits).tokens)
    assert got[:, :2].tolist() == want[:, :2].tolist()
    assert (got[:, 2] != want[:, 2]).any()


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_prompts_continue_as_unpadded(tiny, prompts, want, side):
    """Rows of one batch with 0, 1 and 5 pads."""
    tokens, mask = np.full((3, 12), 3), np.zeros((3, 12), bool)
    for index, pads in enumerate((0, 1, 5)):
        start = {"left": pads, "right": 5 - pads, "both": pads // 2}[side]
        tokens[index, start : start + 7] = prompts[index]
        mask[index, start : start + 7] = True
    out = generate(tiny, tokens, mask=mask, max_new_tokens=STEPS)
    assert out.tokens.tolist() == want.tolist()


def test_prompts_of_different_lengths(tiny, prompts, want):
    mask = np.arange(7) < np.array([[7], [4], [1]])
    out = generate(tiny, prompts, mask=mask, max_new_tokens=STEPS)
    alone = generate(tiny, prompts[2:, :1], max_new_tokens=STEPS)
    assert out.tokens[0].tolist() == want[0].tolist()
    assert out.tokens[2].tolist() == alone.tokens[0].tolist()


def test_a_row_ends_at_its_end_token(tiny, prompts, want):
    """At any of several; -1 from there on; the other rows go on undisturbed."""
    first, second = int(want[0, 2]), int(want[1, 4])
    out = generate(tiny, prompts, max_new_tokens=STEPS, end_ids=(first, second))
    for row, length, expected in zip(out.tokens, out.lengths, want, strict=True):
        ends = [i for i, token in enumerate(expected) if token in (first, second)]
        stop = ends[0] if ends else STEPS
        assert int(length) == stop
        assert row.tolist() == expected[:stop].tolist() + [-1] * (STEPS - stop)
    assert int(out.lengths[0]) <= 2
    assert int(out.lengths[1]) <= 4


def test_it_stops_when_every_row_has_ended(tiny, prompts, want):
    """Counted by a user's edit that calls back whenever the model runs."""
    calls = []

    @jax.tree_util.register_static
    class Counter:
        def __call__(self, x, at):
            jax.debug.callback(lambda _: calls.append(1), at.layer)
            return x

    ends = [int(token) for token in want[:, 1]]
    out = generate(
        tiny, prompts, max_new_tokens=50, end_ids=ends, edits={"embeddings": (Counter(),)}
    )
    jax.effects_barrier()
    assert (out.lengths <= 1).all()
    assert out.tokens.shape == (3, 50)
    assert len(calls) == max(int(out.lengths.max()), 0) + 1
    assert (np.asarray(out.tokens)[:, 1:] == -1).all()


def test_all_rows_ended_at_once(tiny, prompts, want):
    out = generate(tiny, prompts[:1], max_new_tokens=3, end_ids=[int(want[0, 0])])
    assert out.tokens.tolist() == [[-1, -1, -1]]
    assert out.lengths.tolist() == [0]


@pytest.fixture(scope="module")
def sample(tiny, prompts):
    def draw(seed=0, temperature=1.0, top_p=1.0, tokens=prompts):
        return np.asarray(
            generate(
                tiny,
                tokens,
                max_new_tokens=STEPS,
                temperature=temperature,
                top_p=top_p,
                key=jax.random.key(seed),
            ).tokens
        )

    return draw


def test_sampling_follows_its_key(sample, want):
    assert sample(seed=0).tolist() == sample(seed=0).tolist()
    assert sample(seed=0).tolist() != sample(seed=1).tolist()
    assert sample(seed=0).tolist() != want.tolist()
    rows = sample(tokens=np.tile(np.arange(10, 17), (3, 1)))
    assert len({tuple(row) for row in rows}) == 3, "rows of one text are drawn apart"


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(1.0, 1e-9), (1.0, 0.0), (1e-6, 1.0), (1e-12, 1.0), (jnp.float32(0), 1.0)],
)
def test_the_ends_of_both_scales_are_greedy(sample, want, temperature, top_p):
    assert sample(temperature=temperature, top_p=top_p).tolist() == want.tolist()


def test_a_high_temperature_is_nearly_uniform(sample):
    drawn = sample(temperature=1e9, tokens=np.tile(np.arange(7), (64, 1)))
    assert (drawn >= 0).all()
    assert min(len(set(row.tolist())) for row in drawn) > 1, "each step draws anew"
    assert len(set(drawn.ravel().tolist())) > 0.6 * 262


def test_samples_are_distributed_as_the_model_says(tiny, prompts, numpy_llama):
    """The first token of many equal rows, against the softmax and against its two likeliest."""
    prompt, temperature = prompts[0, :2], 0.7
    tokens = np.tile(prompt, (2000, 1))
    logits = numpy_llama.run(tiny, prompt).logits[-1]
    probs = np.exp((logits - logits.max()) / temperature)
    probs /= probs.sum()
    order = probs.argsort()[::-1]
    first, second = probs[order[:2]]
    assert 0.1 < second / first < 0.95
    for top_p, support in ((1.0, order), (first + second / 2, order[:2])):
        out = generate(
            tiny,
            tokens,
            max_new_tokens=1,
            temperature=temperature,
            top_p=top_p,
            key=jax.random.key(3),
        )
        share = np.bincount(np.asarray(out.tokens)[:, 0], minlength=262) / len(tokens)
        expected = np.zeros(262)
        expected[support] = probs[support] / probs[support].sum()
        assert not share[expected == 0].any()
        error = np.sqrt(expected * (1 - expected) / len(tokens))
        assert (np.abs(share - expected) <= 5 * error + 1e-3).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": 1.0}, "without a random key"),
        ({"mask": np.ones((3, 6), bool)}, "a mask of shape [3, 6]"),
        ({"edits": patch("resid_post", 0, layers=4)}, "a layer from 0 to 3"),
        # The last new token, at 7 + 6 - 1 = 12, is never read.
        ({"edits": patch("resid_post", 0, positions=12)}, "a position from 0 to 11"),
    ],
)
def test_what_does_not_fit_raises(tiny, prompts, change, words):
    with pytest.raises(SelfxError) as caught:
        generate(tiny, prompts, **{"max_new_tokens": STEPS, **change})
    assert words in str(caught.value)
