"""Patching a run with itself changes nothing, in every family. Compiled as users compile it."""

import jax
import numpy as np
import pytest

from selfx.interventions.build import patch
from selfx.models.decoder import forward
from selfx.models.sites import sites_of

pytestmark = pytest.mark.optimised


def test_a_patch_of_what_was_there_is_no_patch(model, one_a_family):
    """To the bit, at every site at once, at every layer; and zeros there change the logits."""
    one, tokens = model(one_a_family), np.random.default_rng(9).integers(1, 60, (8, 11))

    @jax.jit
    def both(model, tokens):
        sites = tuple(sites_of(model.config))
        out = forward(model, tokens, capture=sites)
        edits = {}
        for site, about in sites_of(model.config).items():
            seen = out.captures[site]
            kept = seen[:, :, 4].swapaxes(0, 1) if about.layered else seen[:, 4]
            edits |= patch(site, kept, positions=4)
        return out.logits, forward(model, tokens, edits=edits).logits

    plain, patched = both(one, tokens)
    np.testing.assert_array_equal(plain, patched)
