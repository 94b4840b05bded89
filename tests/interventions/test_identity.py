"""Putting back what was there changes nothing, to the bit; putting in all of another run is it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.interventions.build import patch
from selfx.interventions.edits import Affine, Edits
from selfx.models.decoder import forward
from selfx.models.sites import SITES
from selfx.testing import tiny_config, tiny_model

pytestmark = pytest.mark.optimised
LENGTH, PADS = 6, 2


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(31).integers(6, 262, (2, LENGTH))


@pytest.fixture(
    scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def model(request):
    return tiny_model(tiny_config(n_layers=3), dtype=jnp.dtype(request.param))


def test_a_patch_of_what_was_there_is_no_patch(model, tokens):
    """At each site alone and at all of them at once, at each position, in all layers.

    In bfloat16 too: a compiler that carries more digits than a capture shows would be caught here.
    """
    mask = np.ones(tokens.shape, bool)
    mask[0, :PADS] = False
    run = jax.jit(forward, static_argnames="capture")
    out = run(model, tokens, mask=mask)
    seen = run(model, tokens, mask=mask, capture=tuple(SITES)).captures
    for position in range(LENGTH - PADS):
        back = Edits()
        for site, about in SITES.items():
            x = jnp.moveaxis(seen[site], int(about.layered), 0)  # [b, l, t, ...] or [b, t, ...]
            x = jnp.moveaxis(x, 1 + about.layered, 0)  # positions first
            value = jnp.stack([x[position + PADS, 0], x[position, 1]])
            back = back | patch(site, value, positions=position)
        for site in (*SITES, None):
            chosen = Edits(
                {
                    name: edits if site in (name, None) else away(edits)
                    for name, edits in back.items()
                }
            )
            got = run(model, tokens, mask=mask, edits=chosen).logits
            np.testing.assert_array_equal(got, out.logits, f"{site} at {position}")


def away(edits):
    """The same edits, addressed to a position that no row has."""
    return tuple(edit.replace(positions=edit.positions * 0 + 999) for edit in edits)


def test_the_last_residual_of_another_run_is_that_run(model, tokens):
    """Every position of it at once: one edit with a slot a position."""
    source = np.random.default_rng(32).integers(6, 262, tokens.shape)
    seen = forward(model, source, capture=("resid_post",))
    last = model.config.n_layers - 1
    values = seen.captures["resid_post"][last]
    edit = Affine(
        layers=jnp.full((1, LENGTH, 1), last, jnp.int32),
        positions=jnp.arange(LENGTH, dtype=jnp.int32)[None],
        part=jnp.ones((1, LENGTH, 1), bool),
        keep=jnp.zeros((1, LENGTH)),
        value=values[:, :, None],
    )
    got = forward(model, tokens, edits=Edits({"resid_post": (edit,)})).logits
    np.testing.assert_array_equal(got, seen.logits)
