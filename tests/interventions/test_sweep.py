"""Whole grids against the float64 model with one patch at a time, and one program for all cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions import cells
from selfx.interventions.metric import logit_difference
from selfx.interventions.sweep import sweep
from selfx.models.sites import SITES

LENGTH = 10
TOLERANCE = 5e-5
ANSWER, OTHER = np.array([20, 30]), np.array([40, 50])
METRIC = logit_difference(ANSWER, OTHER)


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(1).integers(6, 262, (2, 2, LENGTH))


@pytest.fixture(scope="module")
def sources(tiny, texts, numpy_llama):
    return [numpy_llama.run(tiny, text) for text in texts[1]]


def truth(numpy_llama, tiny, text, source, row, site, layer, position, head=None, origin=None):
    """The metric of one cell by the oracle."""
    origin = position if origin is None else origin

    def hook(name, at, x):
        if name == site and (at == layer or not SITES[site].layered):
            x = x.copy()
            new = source.sites[site][layer] if SITES[site].layered else source.sites[site]
            where = slice(None) if head is None else head
            x[position][where] = new[origin][where]
        return x

    logits = numpy_llama.run(tiny, text, hook).logits[-1]
    return logits[ANSWER[row]] - logits[OTHER[row]]


def close(got, want):
    want = np.asarray(want)
    assert np.abs(got - want).max() <= TOLERANCE * max(np.abs(want).max(), 1)


def test_every_cell_of_a_grid(tiny, texts, sources, numpy_llama):
    """With keys and values reused and without; answers of its own for every row."""
    grid = sweep(tiny, texts[0], METRIC, source=texts[1], batch_size=16)
    assert grid.axes == ("row", "layer", "position")
    assert grid.values.shape == (2, 4, LENGTH)
    for row in range(2):
        want = [
            [
                truth(numpy_llama, tiny, texts[0, row], sources[row], row, "resid_post", l, p)
                for p in range(LENGTH)
            ]
            for l in range(4)
        ]
        close(grid.values[row], want)
        for got, text in ((grid.base, texts[0, row]), (grid.source, texts[1, row])):
            logits = numpy_llama.run(tiny, text).logits[-1]
            close(got[row], logits[ANSWER[row]] - logits[OTHER[row]])
    plain = sweep(tiny, texts[0], METRIC, source=texts[1], batch_size=16, reuse=False)
    close(plain.values, grid.values)
    close(grid.restored[:, -1, -1], [1, 1])  # the last residual of the last token is all
    close(grid.effect[:, -1, :-1], np.zeros((2, LENGTH - 1)))


@pytest.mark.parametrize("site", ["z", "key", "mlp_out", "embeddings", "attn_probs", "final_norm"])
def test_other_sites_heads_apart(tiny, texts, sources, numpy_llama, site):
    """Some layers, in the order given, and some positions, other ones in every row."""
    positions = np.array([[9, 2], [4, 9]])
    split = site in ("z", "key", "attn_probs")
    layers = [2, 0] if SITES[site].layered else None
    grid = sweep(
        tiny, texts[0], METRIC, source=texts[1], site=site, layers=layers, positions=positions,
        split=split, batch_size=32,
    )  # fmt: skip
    units = range(SITES[site].feature_shape(tiny.config)[0]) if split else (None,)
    for row in range(2):
        want = [
            [
                [
                    truth(numpy_llama, tiny, texts[0, row], sources[row], row, site, l, p, unit)
                    for unit in units
                ]
                for p in positions[row]
            ]
            for l in (layers or [0])
        ]
        close(grid.values[row], np.array(want) if split else np.array(want)[..., 0])
    assert len(grid.axes) == grid.values.ndim
    assert np.abs(grid.effect).max() > 0.01


def test_rows_of_other_lengths_padded_anyhow(tiny, texts, numpy_llama):
    """A position that a row lacks is not a number; the others are as without padding."""
    bases, others = [texts[0, 0], texts[0, 1, :6]], [texts[1, 0, :8], texts[1, 1]]
    tokens, mask = ragged(bases, left=True)
    source, source_mask = ragged(others, left=False)
    grid = sweep(
        tiny, tokens, METRIC, source=source, mask=mask, source_mask=source_mask, layers=[1, 3]
    )
    assert grid.values.shape == (2, 2, LENGTH)
    assert np.isnan(grid.values[0, :, 8:]).all()
    assert np.isnan(grid.values[1, :, 6:]).all()
    for row, count in enumerate((8, 6)):
        source = numpy_llama.run(tiny, others[row])
        want = [
            [
                truth(numpy_llama, tiny, bases[row], source, row, "resid_post", l, p)
                for p in range(count)
            ]
            for l in (1, 3)
        ]
        close(grid.values[row, :, :count], want)


def ragged(rows, left):
    width = LENGTH + 2
    tokens, mask = np.full((len(rows), width), 7), np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        where = slice(width - len(row), None) if left else slice(None, len(row))
        tokens[index, where], mask[index, where] = row, True
    return tokens, mask


def test_from_other_positions_of_the_source(tiny, texts, sources, numpy_llama):
    grid = sweep(
        tiny, texts[0], METRIC, source=texts[1], layers=1, positions=[9, 3],
        source_positions=[[2, 5], [9, 0]],
    )  # fmt: skip
    for row, origins in enumerate(([2, 5], [9, 0])):
        want = [
            truth(numpy_llama, tiny, texts[0, row], sources[row], row, "resid_post", 1, p, origin=o)
            for p, o in zip([9, 3], origins, strict=True)
        ]
        close(grid.values[row, 0], want)


def test_one_program_whatever_the_contents(tiny, texts):
    """Other texts, layers, positions, heads and answers do not compile anew."""
    settings = {"site": "z", "split": True, "batch_size": 12}
    before = cells._cells._cache_size()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sweep(
            tiny, rng.integers(6, 262, texts[0].shape),
            logit_difference(rng.integers(0, 262, 2), rng.integers(0, 262, 2)),
            source=texts[1], layers=rng.choice(4, 2, replace=False), positions=[0, seed, 9],
            reuse=False, **settings,
        )  # fmt: skip
    assert cells._cells._cache_size() == before + 1
    for _ in range(2):
        sweep(tiny, texts[0], METRIC, source=texts[1], **settings)
    assert cells._cells._cache_size() == before + 3, "the text whole, and its last half"


def test_results_do_not_depend_on_the_batch_and_progress_is_told(tiny, texts):
    told = []
    small, large = (
        sweep(
            tiny, texts[0], METRIC, source=texts[1], layers=[0, 2], positions=[1, 8, 9],
            batch_size=size, progress=lambda *x: told.append(x),
        )
        for size in (1, 999)
    )  # fmt: skip
    close(small.values, large.values)
    assert [done for done, _, _ in told[:6]] == [1, 2, 3, 4, 5, 6]
    assert told[-1][:2] == (6, 6)


def test_a_users_own_metric(tiny, texts, numpy_llama):
    def entropy(logits):
        return -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(axis=-1)

    grid = sweep(tiny, texts[0], entropy, source=texts[1], layers=[0], positions=[9])
    logits = numpy_llama.run(tiny, texts[0, 1]).logits[-1]
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    close(grid.base[1], -(p * np.log(p)).sum())
    assert abs(grid.effect).min() > 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"site": "resid_pots"}, ["did you mean"]),
        ({"layers": 4}, ["layer 4", "0 to 3"]),
        ({"layers": []}, ["no layers"]),
        ({"site": "embeddings", "layers": 0}, ["outside the layers"]),
        ({"positions": 10}, ["position 10", "0 to 9"]),
        ({"positions": -1}, ["position -1"]),
        ({"positions": np.zeros((3, 1), int)}, ["[3, 1]", "[2, p]"]),
        ({"positions": []}, ["no positions"]),
        ({"source_positions": [1, 2]}, ["2 source positions for 10"]),
        ({"split": True}, ["split=True at 'resid_post'", "heads or neurons"]),
        ({"source": np.ones((3, 4), int)}, ["3 source rows for 2"]),
        ({"source": np.full((2, 4), 262)}, ["token 262", "0 to 261"]),
        ({"mask": np.zeros((2, LENGTH), bool)}, ["without tokens"]),
        ({"metric": logit_difference(262)}, ["token 262", "0 to 261"]),
        ({"metric": logit_difference([1, 2, 3])}, ["[3]", "1 or 2"]),
        ({"metric": jnp.mean}, ["()", "[2]"]),
        ({"metric": 3}, ["int as the metric", "logit_difference"]),
    ],
)
def test_what_does_not_fit_raises(tiny, texts, changes, words):
    settings = {"metric": METRIC, "source": texts[1]} | changes
    with pytest.raises(SelfxError) as caught:
        sweep(tiny, texts[0], settings.pop("metric"), **settings)
    for word in words:
        assert word in str(caught.value)
