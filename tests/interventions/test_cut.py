"""Cut edges of attention, as the float64 model has it with the same scores at minus infinity."""

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.cut import cut
from selfx.models.decoder import forward
from selfx.models.generate import generate

LENGTH = 6
TOLERANCE = 5e-5
run = jax.jit(forward, static_argnames="capture")


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(6, 262, (2, LENGTH))


def severed(source, target, layers=range(4), heads=range(4)):
    """The oracle's hook: scores of these edges at minus infinity, as far as the text goes."""

    def hook(site, layer, x):
        if site == "attn_scores" and layer in layers:
            x = x.copy()
            length = len(x)
            for t in range(length) if target is None else target:
                for s in range(length) if source is None else source:
                    if t < length and s < length and s != t:
                        x[t, list(heads), s] = -np.inf
        return x

    return hook


def compare(got, want):
    assert np.abs(np.asarray(got) - want).max() <= TOLERANCE * np.abs(want).max()


def test_some_edges_of_some_heads_and_layers(tiny, tokens, numpy_llama):
    edits = cut(source=[[1, 2]], target=[[4, 5]], layers=[0, 3], heads=[1, 2])
    got = run(tiny, tokens, edits=edits, capture=("attn_probs",))
    for row in range(2):
        hook = severed([1, 2], [4, 5], (0, 3), (1, 2))
        compare(got.logits[row], numpy_llama.run(tiny, tokens[row], hook).logits)
    probs = np.asarray(got.captures["attn_probs"])
    assert not probs[0][:, 4:, 1:3, 1:3].any()
    np.testing.assert_allclose(probs[0, :, 4, 1].sum(-1), 1, atol=1e-6)
    assert probs[1][:, 4:, 1:3, 1:3].all()
    assert probs[0][:, 4:, 0, 1:3].all()


def test_a_source_nobody_else_sees_and_other_ones_in_every_row(tiny, tokens, numpy_llama):
    edits = cut(source=[2, 0], target=[[3, 4, 5], [1, 5, -1]])
    got = run(tiny, tokens, edits=edits).logits
    for row, (source, target) in enumerate((([2], [3, 4, 5]), ([0], [1, 5]))):
        want = numpy_llama.run(tiny, tokens[row], severed(source, target)).logits
        compare(got[row], want)
        assert np.abs(want - numpy_llama.run(tiny, tokens[row]).logits).max() > 0.01


def test_padding_moves_nothing(tiny, tokens):
    wide = np.full((2, LENGTH + 3), 9)
    mask = np.ones(wide.shape, bool)
    mask[0, [0, 3, 4]] = mask[1, :3] = False
    wide[mask] = tokens.ravel()
    edits = cut(source=[[1, 2]], target=[[4, 5]])
    got = np.asarray(run(tiny, wide, mask=mask, edits=edits).logits)[mask]
    want = np.asarray(run(tiny, tokens, edits=edits).logits).reshape(got.shape)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_token_that_sees_nothing_gets_zeros(tiny, tokens):
    out = run(tiny, tokens, edits=cut(target=3, layers=1), capture=("z",))
    assert not np.asarray(out.captures["z"])[1, :, 3].any()
    assert np.asarray(out.captures["z"])[0, :, 3].any()
    assert np.isfinite(out.logits).all()


def test_while_text_is_written(tiny, tokens, numpy_llama):
    """New tokens do not see the second one either; with the mask of padded prompts too."""
    sources, later = [[1, 3]], np.arange(4, 10)[None]
    hook = severed([1, 3], range(4, 10))
    want = [numpy_llama.greedy(tiny, row, 4, hook) for row in tokens]
    plain = [numpy_llama.greedy(tiny, row, 4) for row in tokens]
    assert want != plain
    got = generate(
        tiny, tokens, max_new_tokens=4, edits=cut(source=sources, target=later[:, :5])
    ).tokens
    assert got.tolist() == want
    wide = np.concatenate([np.full((2, 3), 9), tokens], axis=1)
    mask = np.tile(np.arange(LENGTH + 3) >= 3, (2, 1))
    edits = cut(source=sources, target=later[:, :5], mask=mask)
    got = generate(tiny, wide, mask=mask, max_new_tokens=4, edits=edits).tokens
    assert got.tolist() == want


def test_one_program_for_all_edges(tiny, tokens):
    @jax.jit
    def logits(model, source, target, layer):
        return forward(model, tokens, edits=cut(source, target, layers=layer)).logits

    seen = {np.asarray(logits(tiny, s, t, l)).tobytes() for s, t, l in ((0, 3, 1), (2, 5, 0))}
    assert len(seen) == 2
    assert logits._cache_size() == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cut(), ["neither", "selfx.knock_out"]),
        (lambda: cut(source=6), ["position 6", "0 to 5"]),
        (lambda: cut(source=[[-2]]), ["-2"]),
        (lambda: cut(source=[1, 2, 3]), ["3 rows"]),
        (lambda: cut(source=1, layers=4), ["layer 4", "0 to 3"]),
        (lambda: cut(source=1, heads=[0, 4]), ["head 4", "0 to 3"]),
        (lambda: cut(source=1, heads=-5), ["-5"]),
    ],
)
def test_what_does_not_fit_raises(tiny, tokens, make, words):
    with pytest.raises(SelfxError) as caught:
        forward(tiny, tokens, edits=make())
    for word in words:
        assert word in str(caught.value)
