"""Every family and every switch against what Hugging Face's code computed in torch, from files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.models import cache as caches
from selfx.models.decoder import forward
from selfx.models.zoo import FAMILIES
from selfx.weights.safetensors import folder_config, folder_weights

TOLERANCE = 5e-5
PADS, PREFILL = 4, 9
SITES = ("embeddings", "resid_post", "attn_probs")


@pytest.fixture(scope="module")
def loaded(golden, tmp_path_factory):
    """A function: a case's model, from a folder as it would be downloaded."""

    def load(case, **spelling):
        folder = golden.write_folder(case, tmp_path_factory.mktemp(case), **spelling)
        config = folder_config(folder)
        return folder_weights(folder, config, jnp.float32)

    return load


@functools.partial(jax.jit, static_argnames="prefill")
def run(model, tokens, mask, prefill):
    """The whole text at once, and again in two parts with a cache."""
    whole = forward(model, tokens, mask=mask, capture=SITES)
    cache = caches.empty(model.config, *tokens.shape, jnp.float32)
    first = forward(model, tokens[:, :prefill], mask=mask[:, :prefill], cache=cache)
    rest = forward(model, tokens[:, prefill:], mask=mask[:, prefill:], cache=first.cache)
    return whole, jnp.concatenate([first.logits, rest.logits], axis=1)


def padded(rows):
    """Each row with pads before it, and with pads after it: `(tokens, mask)` `[2 rows, width]`."""
    width = max(len(row) for row in rows) + PADS
    tokens, mask = np.ones((2 * len(rows), width), int), np.zeros((2 * len(rows), width), bool)
    for index, row in enumerate(rows):
        tokens[2 * index, width - len(row) :] = tokens[2 * index + 1, : len(row)] = row
        mask[2 * index, width - len(row) :] = mask[2 * index + 1, : len(row)] = True
    return tokens, mask


def assert_close(got, want, what):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, what
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= TOLERANCE, f"{what}: off by {worst:.1e} of its scale"


def test_every_case(golden, golden_case, loaded):
    """Logits and every residual; padded on either side; with a cache (where torch has one rule)."""
    expected = golden.load(golden_case)
    tokens, mask = padded(expected.rows)
    whole, cached = run(loaded(golden_case), tokens, mask, PREFILL)
    for place, real in enumerate(mask):
        row, side = place // 2, ("left", "right")[place % 2]
        seen = {site: np.asarray(whole.captures[site]) for site in SITES}
        assert_close(whole.logits[place][real], expected.logits[row], f"logits, {side}")
        assert_close(seen["embeddings"][place][real], expected.embeddings[row], "embeddings")
        for layer, want in enumerate(expected.residuals[row]):
            got = seen["resid_post"][layer, place][real]
            assert_close(got, want, f"residual of layer {layer}, {side}")
        if expected.attention is not None:
            got = seen["attn_probs"][:, place][:, real][..., real].swapaxes(1, 2)
            assert_close(got, expected.attention[row], f"attention, {side}")
        if not expected.hf_inconsistent:
            assert_close(cached[place][real], expected.logits[row], f"cached logits, {side}")


def test_the_spelling_of_published_files(golden, golden_case, loaded):
    """The same architecture from older keys, and the same weights under other names."""
    expected, model = golden.load(golden_case), None
    if expected.config_published is None and not expected.layouts:
        pytest.skip("one spelling only")
    model = loaded(golden_case)
    spellings = [{"layout": layout} for layout in expected.layouts]
    if expected.config_published is not None:
        spellings.append({"config": "config_published"})
    for spelling in spellings:
        other = loaded(golden_case, **spelling)
        assert other.config == model.config, spelling
        for one, two in zip(jax.tree.leaves(other), jax.tree.leaves(model), strict=True):
            np.testing.assert_array_equal(one, two)


def test_every_switch_shows(golden, golden_case):
    """Else a model that ignores it would pass."""
    for switch, change in golden.load(golden_case).matters.items():
        assert change > 4 * TOLERANCE, switch


def test_every_family_has_a_case(golden):
    assert {case.split("-")[0] for case in golden.CASES} - {"gemma3"} == set(FAMILIES)
