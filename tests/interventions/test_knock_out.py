"""Heads taken out, as the float64 model has it with the same heads' values overwritten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.knock_out import knock_out
from selfx.models.decoder import forward

LENGTH = 6
TOLERANCE = 5e-5
HEADS = [(0, 3), (2, 0), (2, 1)]
run = jax.jit(forward, static_argnames="capture")


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(6, 262, (2, LENGTH))


def compare(tiny, tokens, numpy_llama, edits, value, heads=lambda row: HEADS, positions=None):
    """`value(row, layer, head)` is what the oracle writes there."""
    got = run(tiny, tokens, edits=edits).logits
    for row, text in enumerate(tokens):

        def hook(site, layer, x, row=row):
            if site == "z":
                x = x.copy()
                where = slice(None) if positions is None else positions[row]
                for at, head in heads(row):
                    if at == layer:
                        x[where, head] = value(row, layer, head)[where]
            return x

        want = numpy_llama.run(tiny, text, hook).logits
        assert np.abs(got[row] - want).max() <= TOLERANCE * np.abs(want).max()
        assert np.abs(numpy_llama.run(tiny, text).logits - want).max() > 0.01


def test_zero(tiny, tokens, numpy_llama):
    compare(tiny, tokens, numpy_llama, knock_out(HEADS), lambda *_: np.zeros((LENGTH, 8)))


def test_mean_of_each_layer_and_head_or_one_for_all_layers(tiny, tokens, numpy_llama):
    means = np.random.default_rng(2).standard_normal((4, 4, 8)).astype(np.float32)
    edits = knock_out(HEADS, kind="mean", value=means)
    compare(tiny, tokens, numpy_llama, edits, lambda _, l, h: np.tile(means[l, h], (LENGTH, 1)))
    edits = knock_out(HEADS, kind="mean", value=means[0], positions=4)
    means[1:] = means[0]
    compare(
        tiny, tokens, numpy_llama, edits, lambda _, l, h: np.tile(means[l, h], (LENGTH, 1)),
        positions=[4, 4],
    )  # fmt: skip


def test_resample_puts_another_run_back_position_by_position(tiny, tokens, numpy_llama):
    """Also when the other run was padded."""
    source = np.random.default_rng(3).integers(6, 262, tokens.shape)
    z = np.asarray(run(tiny, source, capture=("z",)).captures["z"])
    edits = knock_out(HEADS, kind="resample", value=z)
    compare(tiny, tokens, numpy_llama, edits, lambda r, l, h: z[l, r, :, h])
    wide = np.concatenate([np.full((2, 3), 9), source], axis=1)
    mask = np.arange(LENGTH + 3) >= np.array([[3], [3]])
    padded = run(tiny, wide, mask=mask, capture=("z",)).captures["z"]
    edits = knock_out(HEADS, kind="resample", value=padded, mask=mask, positions=[2, 5])
    compare(tiny, tokens, numpy_llama, edits, lambda r, l, h: z[l, r, :, h], positions=[2, 5])


def test_other_heads_in_every_row(tiny, tokens, numpy_llama):
    heads = np.array([[[1, 2], [3, 3]], [[0, 0], [-1, 0]]])
    compare(
        tiny, tokens, numpy_llama, knock_out(heads), lambda *_: np.zeros((LENGTH, 8)),
        heads=lambda row: heads[row],
    )  # fmt: skip


def test_every_head_taken_out_is_no_attention(tiny, tokens, numpy_llama):
    edits = knock_out([(layer, head) for layer in range(4) for head in range(4)])

    def hook(site, layer, x):
        return np.zeros_like(x) if site == "attn_out" else x

    want = numpy_llama.run(tiny, tokens[0], hook).logits
    got = run(tiny, tokens, edits=edits).logits[0]
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_one_program_for_every_head_and_a_grid_by_vmap(tiny, tokens):
    grid = jnp.asarray([[[layer, head]] for layer in range(4) for head in range(4)])

    @jax.jit
    def logits(model, heads):
        return forward(model, tokens, edits=knock_out(heads)).logits

    each = [logits(tiny, heads) for heads in grid]
    assert logits._cache_size() == 1
    several = jax.jit(jax.vmap(logits, in_axes=(None, 0)))(tiny, grid)
    assert len({np.asarray(x).tobytes() for x in each}) == 16
    np.testing.assert_allclose(several, np.stack(each), atol=2e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: knock_out([]), ["at least one (layer, head)"]),
        (lambda: knock_out([3, 4]), ["(layer, head)"]),
        (lambda: knock_out([(4, 0)]), ["layer 4", "0 to 3"]),
        (lambda: knock_out([(0, 4)]), ["head 4", "0 to 3"]),
        (lambda: knock_out([(0, -1)]), ["head -1"]),
        (lambda: knock_out(np.zeros((3, 1, 2), int)), ["3 rows", "1 row or 2"]),
        (lambda: knock_out([(0, 0)], kind="median"), ["'median'"]),
        (lambda: knock_out([(0, 0)], kind="mean"), ["value="]),
        (lambda: knock_out([(0, 0)], kind="mean", value=np.ones((3, 4, 8))), ["3 layers"]),
        (lambda: knock_out([(0, 0)], kind="resample", value=np.ones((4, 3, 6, 4, 8))), ["3 rows"]),
    ],
)
def test_what_does_not_fit_raises(tiny, tokens, make, words):
    with pytest.raises(SelfxError) as caught:
        forward(tiny, tokens, edits=make())
    for word in words:
        assert word in str(caught.value)
