"""Every golden case again with torch at hand: other tokens, its own padding, its own cache."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.models import cache as caches
from selfx.models.decoder import forward

pytestmark = pytest.mark.reference
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def torch_side(golden):
    """The scripts that wrote the golden files: `(make_golden, golden_torch)`."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(golden.FOLDER.parent)
        yield importlib.import_module("make_golden"), importlib.import_module("golden_torch")


@jax.jit
def run(model, tokens, mask):
    out = forward(model, tokens, mask=mask, capture=("resid_post",))
    return out.logits, out.captures["resid_post"]


@jax.jit
def step(model, tokens, cache):
    out = forward(model, tokens, cache=cache)
    return out.logits, out.cache


def assert_close(got, want, what):
    worst = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert worst <= TOLERANCE, f"{what}: off by {worst:.1e} of its scale"


def sides(rows):
    """`{side: (tokens, mask)}` of rows padded on it."""
    longest = max(map(len, rows))
    found = {}
    for side in ("left", "right"):
        tokens, mask = np.zeros((len(rows), longest), int), np.zeros((len(rows), longest), bool)
        for row, text in enumerate(rows):
            where = slice(longest - len(text), None) if side == "left" else slice(len(text))
            tokens[row, where], mask[row, where] = text, True
        found[side] = tokens, mask
    return found


def test_live(golden_case, golden, model, torch_side):
    make_golden, golden_torch = torch_side
    theirs = make_golden.loaded(golden_case, make_golden.DECLARED[golden_case]).float()
    mine, vocabulary = model(golden_case), golden.load(golden_case).logits[0].shape[-1]
    draw = np.random.default_rng(len(golden_case))
    rows = [draw.integers(0, vocabulary, length) for length in (17, 6)]
    consistent = not golden.load(golden_case).hf_inconsistent
    for side, (tokens, mask) in sides(rows).items():
        logits, residuals = run(mine, tokens, mask)
        expected = golden_torch.padded(theirs, rows, side) if consistent else [None] * len(rows)
        for row, text in enumerate(rows):
            alone = golden_torch.alone(theirs, text)
            assert_close(logits[row][mask[row]], alone["logits"], f"logits, {side}")
            for layer, want in enumerate(alone["residuals"]):
                got = residuals[layer, row][mask[row]]
                assert_close(got, want, f"residual of layer {layer}, {side}")
            if consistent:
                assert_close(logits[row][mask[row]], expected[row], f"torch's own {side} padding")
    if consistent:
        cache, found = caches.empty(mine.config, 1, 17, jnp.float32), []
        first = golden_torch.PREFILL
        for start, stop in [(0, first), *((i, i + 1) for i in range(first, 17))]:
            logits, cache = step(mine, rows[0][None, start:stop], cache)
            found.append(logits[0])
        assert_close(np.concatenate(found), golden_torch.cached(theirs, rows[0]), "cached")
