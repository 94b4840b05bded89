"""The logit lens and direct logits against sums in float64, and against the model's own logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.build import steer
from selfx.interventions.lens import direct_logits, logit_lens
from selfx.models.decoder import forward
from selfx.testing import tiny_config, tiny_model

LENGTH = 6
TOLERANCE = 5e-5
ANSWER, OTHER = np.array([20, 30]), np.array([40, 50])

FAMILIES = {
    "llama": {},
    "gpt2": {
        "norm": "layer",
        "gated": False,
        "activation": "gelu_tanh",
        "attention_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "learned_positions": True,
        "ropes": (None,),
        "tied": True,
    },
    "gemma": {
        "norm": "rms_plus_one",
        "post_norm": True,
        "logit_cap": 2.0,
        "embed_scale": 3.0,
        "tied": True,
    },
    "neox": {"norm": "layer", "parallel": True, "gated": False, "output_bias": True},
    "olmo": {"pre_norm": False, "post_norm": True, "qk_norm": "row"},
}


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(6, 262, (2, LENGTH))


def compare(got, want):
    want = np.asarray(want)
    assert np.abs(np.asarray(got) - want).max() <= TOLERANCE * max(np.abs(want).max(), 1)


def test_the_lens_is_the_head_on_every_residual(tiny, tokens, numpy_llama):
    w = numpy_llama.weights(tiny)
    got = logit_lens(tiny, tokens)
    assert got.shape == (4, 2, LENGTH, 262)
    some = logit_lens(tiny, tokens, site="resid_mid", layers=[2, 0], positions=[[5, 1], [0, 3]])
    assert some.shape == (2, 2, 2, 262)
    for row in range(2):
        run = numpy_llama.run(tiny, tokens[row])
        for layer in range(4):
            normed = numpy_llama.rms_norm(
                run.sites["resid_post"][layer], w["final_norm.w"], tiny.config.norm_eps
            )
            compare(got[layer, row], normed @ w["unembed.w"])
        for place, layer in enumerate((2, 0)):
            mid = run.sites["resid_mid"][layer][[(5, 1), (0, 3)][row], :]
            normed = numpy_llama.rms_norm(mid, w["final_norm.w"], tiny.config.norm_eps)
            compare(some[place, row], normed @ w["unembed.w"])


@pytest.mark.parametrize("family", FAMILIES)
def test_from_the_last_layer_the_lens_is_the_model(family, tokens):
    model = tiny_model(tiny_config(n_layers=2, **FAMILIES[family]))
    got = logit_lens(model, tokens, layers=1)[0]
    compare(got, jax.jit(forward)(model, tokens).logits)


def test_every_part_is_what_the_component_wrote_at_the_scale_of_the_run(tiny, tokens, numpy_llama):
    """Each written vector over the last residual's root mean square, times the norm's weight."""
    w = numpy_llama.weights(tiny)
    positions = np.array([5, 2])
    got = direct_logits(tiny, tokens, ANSWER, OTHER, position=positions, split=True)
    for row in range(2):
        sites, p = numpy_llama.run(tiny, tokens[row]).sites, positions[row]
        last = sites["resid_post"][-1][p]
        direction = w["unembed.w"][:, ANSWER[row]] - w["unembed.w"][:, OTHER[row]]
        direction = direction * w["final_norm.w"]
        direction = direction / np.sqrt((last**2).mean() + tiny.config.norm_eps)
        compare(got.embeddings[row], sites["embeddings"][p] @ direction)
        compare(got.attention[row], sites["attn_out_post"][:, p] @ direction)
        compare(got.mlp[row], sites["mlp_out_post"][:, p] @ direction)
        logits = sites["logits"][p]
        compare(got.total[row], logits[ANSWER[row]] - logits[OTHER[row]])
        for layer in range(4):
            for head in range(4):
                rows = w["blocks.o.w"][layer, 8 * head : 8 * head + 8]
                want = sites["z"][layer, p, head] @ rows @ direction
                compare(got.heads[row, layer, head], want)
    compare(got.heads.sum(axis=-1), got.attention)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_add_up_to_the_models_logit(family, tokens):
    """In every kind of norm; a capped logit before its cap."""
    changes = FAMILIES[family]
    model = tiny_model(tiny_config(n_layers=3, **changes))
    split = not changes.get("post_norm")
    got = direct_logits(model, tokens, ANSWER, split=split)
    parts = got.embeddings + got.attention.sum(1) + got.mlp.sum(1) + got.bias
    compare(parts, got.total)
    compare(got.rest, np.zeros(2))
    logits = jax.jit(forward)(model, tokens).logits[np.arange(2), -1, ANSWER]
    cap = changes.get("logit_cap")
    compare(logits, cap * np.tanh(got.total / cap) if cap else got.total)
    assert np.any(got.bias) == (changes.get("norm") == "layer")
    if split:
        gap = got.attention - got.heads.sum(axis=-1)
        assert (np.abs(gap).max() > 1e-3) == bool(changes.get("output_bias"))
    else:
        assert got.heads is None


def test_padding_moves_nothing_and_the_last_token_is_the_last_real_one(tiny, tokens):
    want = direct_logits(tiny, tokens, ANSWER, OTHER, split=True)
    wide = np.concatenate([np.full((2, 2), 9), tokens, np.full((2, 1), 9)], axis=1)
    mask = np.tile((np.arange(LENGTH + 3) >= 2) & (np.arange(LENGTH + 3) < LENGTH + 2), (2, 1))
    got = direct_logits(tiny, wide, ANSWER, OTHER, split=True, mask=mask)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    lens = logit_lens(tiny, wide, mask=mask, positions=[LENGTH - 1])[-1, :, 0]
    compare(lens, logit_lens(tiny, tokens)[-1, :, -1])


def test_what_an_edit_puts_into_the_residual_is_the_rest(tiny, tokens):
    """And what it changes of a component is that component's."""
    vector = np.random.default_rng(2).standard_normal(32)
    plain = direct_logits(tiny, tokens, ANSWER)
    edited = direct_logits(
        tiny, tokens, ANSWER, edits=steer("resid_post", vector, layers=3, positions=LENGTH - 1)
    )
    assert np.abs(edited.rest).min() > 1e-2
    parts = edited.embeddings + edited.attention.sum(1) + edited.mlp.sum(1) + edited.rest
    compare(parts, edited.total)
    other = direct_logits(tiny, tokens, ANSWER, edits=steer("mlp_out", vector, layers=3))
    compare(other.rest, np.zeros(2))
    assert np.abs(other.mlp[:, 3] - plain.mlp[:, 3]).min() > 1e-3


def test_under_jit_vmap_and_grad(tiny, tokens):
    """Over answers, in one program; and a slope by the answer's own weights."""
    answers = np.array([[20, 30], [40, 50], [7, 8]])

    @jax.jit
    @jax.vmap
    def parts(answer):
        return direct_logits(tiny, tokens, answer).mlp

    got = parts(answers)
    compare(got[1], direct_logits(tiny, tokens, answers[1]).mlp)

    @jax.jit
    @jax.grad
    def slope(model):
        lens = logit_lens(model, tokens, layers=[0, 3], positions=[LENGTH - 1])
        return lens[:, :, 0, 7].sum() + direct_logits(model, tokens, 7).total.sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope(tiny)))
    assert jnp.any(slope(tiny).unembed.w[...][:, 7])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, t: logit_lens(m, t, site="z"), ["'z'", "residual's width"]),
        (lambda m, t: logit_lens(m, t, site="embeddings"), ["'embeddings'"]),
        (lambda m, t: logit_lens(m, t, site="resid_pots"), ["did you mean"]),
        (lambda m, t: logit_lens(m, t, layers=4), ["layer 4", "0 to 3"]),
        (lambda m, t: direct_logits(m, t, 262), ["token 262", "0 to 261"]),
        (lambda m, t: direct_logits(m, t, [1, 2, 3]), ["[3]", "[2]"]),
        (lambda m, t: direct_logits(m, t, 1, position=LENGTH), ["position 6", "0 to 5"]),
        (lambda m, t: direct_logits(m, t, 1, mask=np.ones((2, 3))), ["[2, 3]"]),
        (
            lambda m, t: direct_logits(m, t, 1, split=True, lora={"o": lambda x: x}),
            ["split=True", "selfx.sweep"],
        ),
    ],
)
def test_what_does_not_fit_raises(tiny, tokens, call, words):
    with pytest.raises(SelfxError) as caught:
        call(tiny, tokens)
    for word in words:
        assert word in str(caught.value)


def test_heads_behind_a_norm_cannot_be_split(tokens):
    model = tiny_model(tiny_config(n_layers=1, **FAMILIES["gemma"]))
    with pytest.raises(SelfxError, match="without a norm after attention"):
        direct_logits(model, tokens, 1, split=True)
