"""The same experiments on every kind of decoder: identities that hold whatever it is made of.

Layer norms and biases, norms before and after, parallel branches, windows, caps, learned positions,
experts: nothing that reads or reuses a run may assume their absence.
"""

import jax
import numpy as np
import pytest

from selfx.interventions.attribution import attribute
from selfx.interventions.cut import cut
from selfx.interventions.knock_out import knock_out
from selfx.interventions.metric import logit_difference
from selfx.interventions.path import Place, path_patch
from selfx.interventions.recorded import replay
from selfx.interventions.sweep import sweep
from selfx.models.config import Experts, Rope
from selfx.models.decoder import forward
from selfx.models.sites import sites_of
from selfx.testing import tiny_config, tiny_model

LENGTH = 7
METRIC = logit_difference([20, 30], [40, 50])
FAMILIES = {
    "gpt": {
        "norm": "layer",
        "parallel": True,
        "gated": False,
        "activation": "gelu_tanh",
        "attention_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "learned_positions": True,
        "ropes": (Rope(1e4, None, 0.5), None),
    },
    "gemma": {
        "norm": "rms_plus_one",
        "post_norm": True,
        "qk_norm": "head",
        "windows": (3, None),
        "score_cap": 2.0,
        "logit_cap": 3.0,
        "tied": True,
    },
    "moe": {"experts": Experts(4, 2, True)},
}


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(1).integers(6, 262, (2, 2, LENGTH))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(tiny_config(n_layers=2, **FAMILIES[request.param]))


@pytest.fixture(scope="module")
def runs(model, texts):
    """Captures of all sites, and logits, of base and source."""
    sites = tuple(sites_of(model.config))
    run = jax.jit(forward, static_argnames="capture")
    outs = [run(model, text, capture=sites) for text in texts]
    return [(out.captures, out.logits) for out in outs]


run = jax.jit(forward)


def test_recordings(model, texts, runs):
    """A run's own changes nothing, another's residual is that run: to the bit."""
    edits = None
    for site in sites_of(model.config):
        own = replay(site, runs[0][0][site])
        edits = own if edits is None else edits | own
    np.testing.assert_array_equal(run(model, texts[0], edits=edits).logits, runs[0][1])
    got = run(model, texts[0], edits=replay("resid_pre", runs[1][0]["resid_pre"])).logits
    np.testing.assert_array_equal(got, runs[1][1])


def test_heads_and_edges(model, texts):
    """Without its heads a layer's attention adds what no text decides; a token cut off likewise."""
    take = jax.jit(
        lambda m, t, e: forward(m, t, edits=e, capture=("attn_out", "attn_probs")).captures
    )
    seen = take(model, texts[0], knock_out([(1, head) for head in range(4)]))["attn_out"][1]
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[0, 0], seen.shape))
    seen = take(model, texts[0], cut(source=2, layers=1))["attn_probs"]
    assert not np.asarray(seen)[1, :, :, :, 2].any()
    assert np.asarray(seen)[0, :, 3, :, 2].all()


def test_paths(model, texts, runs):
    """Everything sent is the source run; to the logits alone, a head's own writing."""
    every = [Place(site) for site in ("embeddings", "z", "mlp_out")]
    np.testing.assert_array_equal(path_patch(model, *texts, senders=every).logits, runs[1][1])
    (base, _), (source, _) = runs
    got = path_patch(model, *texts, senders=Place("mlp_out_post", layers=0)).logits
    gap = source["mlp_out_post"][0] - base["mlp_out_post"][0]
    last = replay("resid_post", (base["resid_post"][-1] + gap)[None].repeat(2, 0), layers=1)
    want = run(model, texts[0], edits=last).logits
    assert np.abs(got - want).max() <= 5e-5 * np.abs(want).max()
    assert np.abs(got - runs[0][1]).max() > 1e-3


def test_grids_and_their_estimates(model, texts):
    """Runs that go on from the cache, through windows too, are as whole ones."""
    grid = sweep(model, texts[0], METRIC, source=texts[1])
    whole = sweep(model, texts[0], METRIC, source=texts[1], reuse=False)
    np.testing.assert_allclose(grid.values, whole.values, atol=5e-5)
    np.testing.assert_allclose(grid.restored[:, -1, -1], 1, atol=1e-4)
    found = attribute(model, texts[0], METRIC, source=texts[1], sites=("z", "attn_out"))
    heads = found.effects["z"].sum(axis=-1)
    np.testing.assert_allclose(heads, found.effects["attn_out"], atol=5e-5)
    assert np.any(heads)
