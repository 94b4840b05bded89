"""Path patching against explicit sums along the residual stream, and against the oracle's hooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.path import Place, path_edits, path_patch
from selfx.models.decoder import forward
from selfx.models.generate import generate

LENGTH = 6
TOLERANCE = 5e-5
HEAD = np.arange(4)[:, None] == 2


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(1).integers(6, 262, (2, 2, LENGTH))


@pytest.fixture(scope="module")
def runs(tiny, texts, numpy_llama):
    """Base and source runs of the first row in float64."""
    return [numpy_llama.run(tiny, text[0]).sites for text in texts]


def compare(got, want):
    assert np.abs(np.asarray(got) - want).max() <= TOLERANCE * np.abs(want).max()


def written(w, layer, runs, head=2):
    """What the head adds in the source run less what it adds in the base run, `[t, d]`."""
    base, source = (run["z"][layer, :, head] for run in runs)
    return (source - base) @ w["blocks.o.w"][layer, 8 * head : 8 * head + 8]


def test_to_the_logits_with_all_frozen_it_is_the_direct_effect(tiny, texts, runs, numpy_llama):
    """The last residual plus what the head writes otherwise, through final norm and unembedding."""
    w = numpy_llama.weights(tiny)
    got = path_patch(tiny, *texts, senders=Place("z", layers=1, part=HEAD)).logits[0]
    last = runs[0]["resid_post"][-1] + written(w, 1, runs)
    want = numpy_llama.rms_norm(last, w["final_norm.w"], 1e-6) @ w["unembed.w"]
    compare(got, want)
    assert np.abs(want - runs[0]["logits"]).max() > 0.01


def test_to_a_heads_queries_it_is_a_sum_in_the_residual(tiny, texts, runs, numpy_llama):
    """And the last run has nothing else changed than those queries."""
    w = numpy_llama.weights(tiny)
    residual = runs[0]["resid_pre"][3] + written(w, 1, runs)
    normed = numpy_llama.rms_norm(residual, w["blocks.attn_norm.w"][3], 1e-6)
    queries = (normed @ w["blocks.q.w"][3]).reshape(LENGTH, 4, 8)
    ways = {
        "senders": Place("z", layers=[1], part=HEAD),
        "receivers": Place("query", layers=3, positions=[[2, 5]] * 2, part=HEAD),
    }
    edits = path_edits(tiny, *texts, **ways)
    compare(edits["query"][0].values[3, 0], queries)

    def hook(site, layer, x):
        if (site, layer) == ("query", 3):
            x = x.copy()
            x[[2, 5], 2] = queries[[2, 5], 2]
        return x

    want = numpy_llama.run(tiny, texts[0, 0], hook).logits
    got = path_patch(tiny, *texts, **ways).logits
    compare(got[0], want)
    assert not np.array_equal(want[2], runs[0]["logits"][2])
    np.testing.assert_array_equal(want[:2], runs[0]["logits"][:2])
    compare(jax.jit(forward)(tiny, texts[0], edits=edits).logits, got)


@pytest.mark.parametrize("freeze", [("attention",), ("mlp",), ()])
def test_what_is_not_frozen_is_computed_anew(tiny, texts, runs, numpy_llama, freeze):
    """The same runs by hooks in float64: hold, send, record, put in."""
    held = {"attention": "z", "mlp": "mlp_out"}
    base, source = runs

    def third(site, layer, x):
        if site in [held[name] for name in freeze]:
            x = base[site][layer].copy()
        if (site, layer) == ("z", 0):
            x = x.copy()
            x[:, 2] = source["z"][0, :, 2]
        if (site, layer) == ("mlp_out", 1):
            x = x.copy()
            x[3] = source["mlp_out"][1, 3]
        return x

    recorded = numpy_llama.run(tiny, texts[0, 0], third)

    def last(site, layer, x):
        if site == "value" and layer in (2, 3):
            return recorded.sites["value"][layer]
        return recorded.sites["mlp_in"][3] if (site, layer) == ("mlp_in", 3) else x

    senders = [Place("z", layers=0, part=HEAD), Place("mlp_out", layers=1, positions=3)]
    receivers = [Place("value", layers=[2, 3]), Place("mlp_in", layers=3)]
    got = path_patch(tiny, *texts, senders=senders, freeze=freeze).logits[0]
    compare(got, recorded.logits)
    got = path_patch(tiny, *texts, senders=senders, receivers=receivers, freeze=freeze).logits[0]
    want = numpy_llama.run(tiny, texts[0, 0], last).logits
    compare(got, want)
    assert np.abs(want - recorded.logits).max() > 0.01


def test_everything_sent_is_the_source_run(tiny, texts):
    """To the bit: embeddings with nothing frozen, or every component with all frozen."""
    want = jax.jit(forward)(tiny, texts[1]).logits
    whole = path_patch(tiny, *texts, senders=Place("embeddings"), freeze=())
    np.testing.assert_array_equal(whole.logits, want)
    every = [Place(site) for site in ("embeddings", "z", "mlp_out")]
    np.testing.assert_array_equal(path_patch(tiny, *texts, senders=every).logits, want)


def test_what_a_text_sends_itself_changes_nothing(tiny, texts):
    plain = jax.jit(forward)(tiny, texts[0]).logits
    same = (texts[0], texts[0])
    senders = [Place("z", layers=0), Place("mlp_out", positions=2)]
    for receivers in ((), Place("key", layers=[2, 3]), [Place("resid_mid", layers=2)]):
        got = path_patch(tiny, *same, senders=senders, receivers=receivers).logits
        np.testing.assert_array_equal(got, plain)


def test_padding_moves_nothing(tiny, texts):
    ways = {
        "senders": Place("z", layers=1, part=HEAD),
        "receivers": [Place("key", layers=2), Place("mlp_in", layers=3)],
    }
    want = np.asarray(path_patch(tiny, *texts, **ways).logits)
    tokens, mask = padded(texts[0], [0, 3, 4])
    source, source_mask = padded(texts[1], [1, 6])
    masks = {"mask": mask, "source_mask": source_mask}
    got = path_patch(tiny, tokens, source, **ways, **masks).logits
    np.testing.assert_allclose(np.asarray(got)[mask].reshape(want.shape), want, atol=2e-5)
    last = path_patch(
        tiny, tokens, source, **ways, **masks, logits_at=np.array([LENGTH - 1])
    ).logits
    np.testing.assert_allclose(last[:, 0], want[:, -1], atol=2e-5)


def padded(texts, holes):
    mask = np.ones((len(texts), LENGTH + len(holes)), bool)
    mask[:, holes] = False
    tokens = np.full(mask.shape, 7)
    tokens[mask] = texts.ravel()
    return tokens, mask


def test_text_can_be_written_with_the_path_patched(tiny, texts):
    ways = {"senders": Place("embeddings"), "receivers": Place("attn_in", layers=range(2))}
    edits = path_edits(tiny, *texts, **ways)
    got = generate(tiny, texts[0], max_new_tokens=2, edits=edits).tokens[:, 0]
    want = path_patch(tiny, *texts, **ways).logits[:, -1].argmax(-1)
    assert got.tolist() == want.tolist()


def test_under_jit_vmap_and_grad(tiny, texts):
    """A grid over heads in one program; a gradient through all runs, to the model's weights."""
    heads = jnp.eye(4, dtype=bool)[:, :, None]

    @jax.jit
    def grid(model, heads):
        def logits(head):
            return path_patch(model, *texts, senders=Place("z", layers=1, part=head)).logits

        return jax.vmap(logits)(heads)

    got = grid(tiny, heads)
    want = path_patch(tiny, *texts, senders=Place("z", layers=1, part=HEAD)).logits
    compare(got[2], np.asarray(want))
    assert np.abs(got[1] - got[2]).max() > 1e-3

    def loss(model):
        return path_patch(model, *texts, senders=Place("z", layers=1)).logits[:, -1, 9].sum()

    slopes = jax.tree.leaves(jax.jit(jax.grad(loss))(tiny))
    assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ({"senders": ()}, ["no senders", "Place"]),
        ({"senders": Place("zz")}, ["unknown site"]),
        ({"senders": Place("query")}, ["sender at 'query'", "attention is frozen", "'z'"]),
        ({"senders": Place("mlp_act")}, ["sender at 'mlp_act'", "mlp_out"]),
        ({"senders": Place("z", layers=4)}, ["layer 4", "0 to 3"]),
        ({"senders": Place("z"), "receivers": Place("attn_out")}, ["receiver at 'attn_out'"]),
        ({"senders": Place("z"), "freeze": "heads"}, ["'heads'", "attention, mlp"]),
        ({"senders": Place("z", positions=6)}, ["position 6"]),
        ({"senders": Place("z"), "source_mask": np.ones((2, 4))}, ["[2, 4]"]),
    ],
)
def test_what_cannot_be_meant_raises(tiny, texts, ways, words):
    with pytest.raises(SelfxError) as caught:
        path_patch(tiny, *texts, **ways)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(SelfxError, match="no receivers"):
        path_edits(tiny, *texts, senders=Place("z"), receivers=())
