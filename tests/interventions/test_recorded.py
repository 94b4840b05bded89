"""A recorded run put back: all of it is that run, its own changes nothing, parts as the oracle."""

import jax
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.interventions.edits import Edits
from selfx.interventions.recorded import replay
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.models.sites import SITES
from selfx.sharding import make_mesh, shard, shard_batch

LENGTH = 6
TOLERANCE = 5e-5
LAYERS = np.array([[0, 2], [3, -1], [1, 2]])
POSITIONS = np.array([[1, 4], [0, -1], [5, 2]])
"""Which layers and positions are put back in each row; -1 is none."""
BY_SLOT = ("attn_scores", "attn_probs")
run = jax.jit(forward, static_argnames="capture")


@pytest.fixture(scope="module")
def texts():
    return np.random.default_rng(1).integers(6, 262, (2, 3, LENGTH))


@pytest.fixture(scope="module")
def recorded(tiny, texts):
    """What each run saw at every site, and its logits."""
    outs = [run(tiny, text, capture=tuple(SITES)) for text in texts]
    return [(out.captures, out.logits) for out in outs]


def test_every_layer_and_position_of_another_run_is_that_run(tiny, texts, recorded):
    """To the bit, at each residual site, at what enters and at what leaves; and nothing less is."""
    source, logits = recorded[1]
    for site in ("embeddings", "resid_pre", "resid_mid", "resid_post", "final_norm", "logits"):
        got = run(tiny, texts[0], edits=replay(site, source[site])).logits
        np.testing.assert_array_equal(got, logits, site)
    outs = replay("attn_out", source["attn_out"]) | replay("mlp_out", source["mlp_out"])
    got = run(tiny, texts[0], edits=outs).logits
    assert np.abs(got - logits).max() > 0.01, "without the source's embeddings"
    got = run(tiny, texts[0], edits=outs | replay("embeddings", source["embeddings"])).logits
    np.testing.assert_array_equal(got, logits)


def test_a_runs_own_recording_changes_nothing(tiny, texts, recorded):
    """To the bit, all sites at once."""
    edits = Edits()
    for site in SITES:
        edits = edits | replay(site, recorded[0][0][site])
    np.testing.assert_array_equal(run(tiny, texts[0], edits=edits).logits, recorded[0][1])


def test_positions_are_those_of_real_tokens_however_rows_are_padded(tiny, texts, recorded):
    """Source padded left, base padded in the middle: the same as without padding, and no NaN."""
    sources, source_mask = padded(texts[1], [0, 1])
    bases, base_mask = padded(texts[0], [2, 5, 7])
    seen = run(tiny, sources, mask=source_mask, capture=tuple(SITES)).captures
    rows, slots = np.nonzero(base_mask)
    for site in SITES:
        if site in BY_SLOT:  # their source axis counts slots
            continue
        edits = at_two_places(site, seen, source_mask)
        got = run(tiny, bases, mask=base_mask, edits=edits).logits[rows, slots]
        want = run(tiny, texts[0], edits=at_two_places(site, recorded[1][0], None)).logits
        want = np.asarray(want).reshape(got.shape)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), site
        assert np.abs(want - np.asarray(recorded[0][1]).reshape(got.shape)).max() > 1e-3, site


def at_two_places(chosen, seen, mask):
    """One site put back at two positions and layers; the others nowhere: one program for all."""
    edits = Edits()
    for site in SITES:
        if site not in BY_SLOT:
            positions = [[1, 4] if site == chosen else [-1, -1]] * 3
            where = {"layers": [0, 2]} if SITES[site].layered else {}
            edits = edits | replay(site, seen[site], mask=mask, positions=positions, **where)
    return edits


def padded(texts, holes):
    """The same rows with padding before the slots `holes` (of the longer row)."""
    mask = np.ones((len(texts), LENGTH + len(holes)), bool)
    mask[:, holes] = False
    tokens = np.full(mask.shape, 7)
    tokens[mask] = texts.ravel()
    return tokens, mask


def test_chosen_layers_positions_and_heads_in_each_row(tiny, texts, recorded, numpy_llama):
    """Against the float64 model's hook, a different set in every row, at every site."""
    weights = numpy_llama.weights(tiny)
    for site, about in SITES.items():
        got = run(tiny, texts[0], edits=in_each_row(site, recorded[1][0], tiny.config)).logits
        value, chosen = np.asarray(recorded[1][0][site]), part(site, tiny.config)
        for row, text in enumerate(texts[0]):

            def hook(name, layer, x, site=site, row=row, about=about, value=value, chosen=chosen):
                if name != site or (about.layered and layer not in LAYERS[row]):
                    return x
                new = value[layer, row] if about.layered else value[row]
                x = x.copy()
                for position in POSITIONS[row][POSITIONS[row] >= 0]:
                    x[position] = np.where(chosen[row], new[position], x[position])
                return x

            want = numpy_llama.run(tiny, text, hook, weights).logits
            worst = np.abs(np.asarray(got[row]) - want).max() / np.abs(want).max()
            assert worst <= TOLERANCE, (site, row, worst)


def part(site, config):
    """bool `[b, units, 1...]`: about half of the heads or neurons, others in every row."""
    about = SITES[site]
    size = about.feature_shape(config)[0] if about.axes[0] in "hkf" else 1
    chosen = np.random.default_rng(2).random((3, size)) < (0.5 if size > 1 else 1)
    return chosen.reshape(3, size, *(1,) * (len(about.axes) - 1))


def in_each_row(chosen, seen, config):
    """One site put back as `LAYERS` and `POSITIONS` say, the others nowhere."""
    edits = Edits()
    for site in SITES:
        where = {"layers": LAYERS} if SITES[site].layered else {}
        positions = POSITIONS if site == chosen else np.full((3, 2), -1)
        several = replay(site, seen[site], positions=positions, part=part(site, config), **where)
        edits = edits | several
    return edits


def test_one_row_serves_all_and_a_shorter_recording_ends(tiny, texts, recorded):
    """Positions that the recording does not reach keep what they had."""
    value = recorded[1][0]["resid_post"][:, :1, :3]
    seen = run(
        tiny, texts[0], edits=replay("resid_post", value, layers=1), capture=("resid_post",)
    ).captures["resid_post"]
    for row in range(3):
        np.testing.assert_array_equal(seen[1, row, :3], value[1, 0])
    plain = recorded[0][0]["resid_post"]
    assert not np.array_equal(seen[1, :, 3:], value[1, 0, :3])
    np.testing.assert_array_equal(seen[0], plain[0])
    longer = np.concatenate([texts[0], texts[0][:, :2]], axis=1)
    edits = replay("resid_post", value[:, :, :1], layers=1)  # of one token: not for every position
    got = run(tiny, longer, edits=edits, capture=("resid_post",)).captures["resid_post"][1]
    np.testing.assert_array_equal(got[:, 0], np.repeat(value[1, :, 0], 3, axis=0))
    assert not np.array_equal(got[:, 1], np.repeat(value[1, :, 0], 3, axis=0))


def test_it_stays_active_while_text_is_written(tiny, texts, recorded, numpy_llama):
    """With a cache the recording meets its own positions once, when the prompt is read."""
    value = recorded[1][0]["resid_mid"]
    edits = replay("resid_mid", value, layers=2, positions=3)
    got = generate(tiny, texts[0], max_new_tokens=4, edits=edits).tokens

    def hook(site, layer, x):
        if (site, layer) == ("resid_mid", 2):
            x = x.copy()
            x[3] = np.asarray(value[2, 0, 3])
        return x

    assert got[0].tolist() == numpy_llama.greedy(tiny, texts[0][0], 4, hook)


def test_contents_do_not_compile_anew_and_gradients_reach_the_recording(tiny, texts, recorded):
    """Layers and positions are data even inside jit; only what is chosen has a gradient."""

    @jax.jit
    @jax.grad
    def gradient(values, model, layer, position):
        edits = replay("resid_mid", values, layers=layer, positions=position)
        return forward(model, texts[0], edits=edits).logits[:, -1, 7].sum()

    values = recorded[1][0]["resid_mid"]
    for layer, position in ((1, 2), (3, 5)):
        found = np.array(gradient(values, tiny, layer, position))
        chosen = found[layer, :, position].copy()
        found[layer, :, position] = 0
        assert not found.any()
        assert np.abs(chosen).max(axis=-1).all()
    assert gradient._cache_size() == 1


def test_rows_split_over_devices(tiny):
    """On a 4 x 2 mesh and with a row a device under pmap: the same, each row its own recording."""
    texts = np.random.default_rng(7).integers(6, 262, (2, 8, LENGTH))
    values = run(tiny, texts[1], capture=("resid_mid",)).captures["resid_mid"]
    where = {"layers": [1, 2], "positions": np.arange(8) % LENGTH}
    want = run(tiny, texts[0], edits=replay("resid_mid", values, **where)).logits

    def one(model, text, value, position):
        edits = replay("resid_mid", value[:, None], layers=[1, 2], positions=position)
        return forward(model, text[None], edits=edits).logits[0]

    mapped = jax.pmap(one, in_axes=(None, 0, 1, 0))(tiny, texts[0], values, where["positions"])
    mesh = make_mesh(4, 2)
    split = run(
        shard(tiny, mesh), shard_batch(texts[0], mesh), edits=replay("resid_mid", values, **where)
    ).logits
    for got in (mapped, split):
        assert np.abs(np.asarray(got) - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda v: replay("resid_pots", v), ["did you mean"]),
        (lambda v: replay("resid_post", v[0]), ["[3, 6, 32]", "[l, b, t, d]"]),
        (lambda v: replay("embeddings", v), ["[b, t, d]"]),
        (lambda v: replay("embeddings", v[0], layers=1), ["outside the layers"]),
        (lambda v: replay("resid_post", v, layers=4), ["layer 4", "0 to 3"]),
        (lambda v: replay("resid_post", v, positions=6), ["position 6", "0 to 5"]),
        (lambda v: replay("resid_post", v, positions=-2), ["position -2"]),
        (lambda v: replay("resid_post", v, mask=np.ones((3, 5))), ["[3, 5]", "[3, 6]"]),
        (lambda v: replay("resid_post", v, part=np.ones((1, 1, 1))), ["[1, 1, 1]"]),
        (lambda v: replay("resid_post", v[:2]), ["2 layers", "expected: 4"]),
        (lambda v: replay("resid_post", v[:, :2]), ["2 rows", "1 row or 3"]),
        (lambda v: replay("resid_post", v[..., :8]), ["[8]", "d=32"]),
        (lambda v: replay("attn_probs", np.ones((4, 3, 6, 4, 5))), ["5 source tokens"]),
    ],
)
def test_what_does_not_fit_raises(tiny, texts, recorded, make, words):
    with pytest.raises(SelfxError) as caught:
        forward(tiny, texts[0], edits=make(recorded[1][0]["resid_post"]))
    for word in words:
        assert word in str(caught.value)
