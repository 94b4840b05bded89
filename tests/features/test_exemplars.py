"""Exemplars: one pass equals brute force, however it is cut, stopped and taken up again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.features.dictionaries.sae import Sae, encode
from selfx.features.exemplars.corpus import windows
from selfx.features.exemplars.directions import (
    Features,
    Latents,
    along,
    first_layers,
    neurons,
    of_sae,
    read,
)
from selfx.features.exemplars.files import load_exemplars, mined, save_exemplars
from selfx.features.exemplars.mine import STATE, Search, mine

LAYER = 1
SIZES = {"top": 4, "sample": 5, "random": 3}
SEARCH = Search(**SIZES, batch_size=8)


@pytest.fixture(scope="module")
def corpus(tiny_lm):
    rng = np.random.default_rng(0)
    words = ["red", "blue", "7", "42", "seven", "Paris", "the", "of"]
    texts = [" ".join(rng.choice(words, rng.integers(3, 40))) for _ in range(23)]
    return windows(tiny_lm.tokenizer, texts, context=16, bos=3)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((12, 32))
    vectors[5] = vectors[4]  # equal features must get equal exemplars
    found = along(vectors, layer=LAYER)
    bias = jnp.where(jnp.arange(12) == 7, -1e6, found.bias)  # one that is never on
    return dataclasses.replace(found, bias=bias)


@pytest.fixture(scope="module")
def true(tiny_lm, features, corpus):
    """float32 `[w, t, n]`: every activation that counts, from one plain forward pass."""
    place = np.arange(corpus.tokens.shape[1])
    mask = place < corpus.lengths[:, None]
    out = selfx.forward(tiny_lm.model, corpus.tokens, mask=mask, capture=("resid_post",))
    x = np.asarray(out.captures["resid_post"])[LAYER]
    sums = x @ np.asarray(features.directions).T + np.asarray(features.bias)
    return np.where((mask & (place >= corpus.skip))[..., None], np.maximum(sums, 0), 0)


@pytest.fixture(scope="module")
def found(tiny_lm, features, corpus):
    return mine(tiny_lm, features, corpus, search=SEARCH)


def test_the_top_equals_a_brute_force_pass(found, true, corpus):
    for feature in range(true.shape[2]):
        peaks = true[:, :, feature].max(axis=1)
        best = {}  # of each document its highest peak, the earlier window where two are equal
        for window in np.argsort(-peaks, kind="stable"):
            if peaks[window] > 0:
                best.setdefault(corpus.document[window], window)
        wanted = list(best.values())[: SIZES["top"]]
        got = found.windows(feature, "top")
        assert len(got) == len(wanted)
        for window, row in zip(got, wanted, strict=True):
            length = corpus.lengths[row]
            np.testing.assert_array_equal(window.ids, corpus.tokens[row, :length])
            np.testing.assert_allclose(
                window.activations, true[row, :length, feature], atol=5e-5 * true.max()
            )
            assert (window.document, window.start) == (corpus.document[row], corpus.start[row])


def test_counts_and_moments_equal_a_brute_force_pass(found, true, corpus):
    counted = int((corpus.lengths - corpus.skip).sum())
    assert found.tokens == counted
    np.testing.assert_array_equal(found.active, (true > 0).sum(axis=(0, 1)))
    np.testing.assert_array_equal(found.fired, (true > 0).any(axis=1).sum(axis=0))
    np.testing.assert_allclose(found.mean, true.sum(axis=(0, 1)) / counted, rtol=1e-4)
    squares = (true**2).sum(axis=(0, 1)) / counted
    deviation = np.sqrt(squares - (true.sum(axis=(0, 1)) / counted) ** 2)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-3)


def test_a_feature_that_is_never_on_has_only_random_windows(found):
    assert found.windows(7, "top") == found.windows(7, "sample") == []
    assert len(found.windows(7, "random")) == SIZES["random"]
    assert found.peak(7) == found.frequency(7) == 0


def test_the_same_however_it_is_cut(tiny_lm, features, corpus, found):
    other = mine(tiny_lm, features, corpus, search=dataclasses.replace(SEARCH, batch_size=5))
    for kind, kept in found.kept.items():
        for feature in range(len(found)):
            pairs = zip(found.windows(feature, kind), other.windows(feature, kind), strict=True)
            assert all((a.document, a.start) == (b.document, b.start) for a, b in pairs)
        np.testing.assert_allclose(kept.activations, other.kept[kind].activations, atol=1e-4)


def test_the_samples_are_uniform_over_the_right_windows(tiny_lm, features, corpus, true):
    """How often a window is drawn, over many seeds, is what a uniform draw gives."""
    on = (true > 0).any(axis=1).T
    on[7] = False
    drawn = {kind: np.zeros(on.shape) for kind in ("sample", "random")}
    places = {
        (document, start): row
        for row, (document, start) in enumerate(zip(corpus.document, corpus.start, strict=True))
    }
    seeds = 60
    for seed in range(seeds):
        got = mine(tiny_lm, features, corpus, search=dataclasses.replace(SEARCH, seed=seed))
        for kind, counts in drawn.items():
            for feature in range(len(got)):
                for window in got.windows(feature, kind):
                    counts[feature, places[window.document, window.start]] += 1
    assert drawn["sample"][~on].sum() == 0
    for kind, possible in (("sample", on), ("random", np.ones_like(on))):
        size = np.maximum(possible.sum(axis=1, keepdims=True), 1)
        share = np.minimum(SIZES[kind] / size, 1)
        spread = np.sqrt(seeds * share * (1 - share)) + 1e-9
        worst = np.abs((drawn[kind] - seeds * share) / spread)[possible.astype(bool)]
        assert worst.max() < 5


def test_quantiles_are_the_sample_in_equal_parts_by_peak(found):
    parts = found.quantiles(0, bins=2)
    assert sum(map(len, parts)) == len(found.windows(0, "sample"))
    assert max(w.peak for w in parts[0]) <= min(w.peak for w in parts[1])


def test_a_stopped_pass_goes_on_to_the_same_bits(tiny_lm, features, corpus, found, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total, note):
        if done >= 24:
            raise Stop

    options = {"search": SEARCH, "save_every": 1}
    with pytest.raises(Stop):
        mine(tiny_lm, features, corpus, tmp_path, **options, report=stop)
    assert (tmp_path / STATE).exists()
    seen = []
    again = mine(
        tiny_lm, features, corpus, tmp_path, **options, report=lambda d, t, n: seen.append(d)
    )
    assert seen[0] == 32, "windows that were read already are not read again"
    same(again, found)


def same(one, other):
    assert one.tokens == other.tokens
    assert one.settings == other.settings
    for name in ("active", "fired", "mean", "deviation"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for kind in one.kept:
        np.testing.assert_array_equal(one.kept[kind].window, other.kept[kind].window)
        np.testing.assert_array_equal(one.kept[kind].activations, other.kept[kind].activations)
    for name in ("tokens", "lengths", "document", "start"):
        np.testing.assert_array_equal(getattr(one.corpus, name), getattr(other.corpus, name))


def test_saved_and_loaded_they_are_the_same(found, tmp_path):
    save_exemplars(found, tmp_path)
    same(load_exemplars(tmp_path), found)
    assert not (tmp_path / STATE).exists()


def test_another_pass_in_the_same_folder_is_refused(tiny_lm, features, corpus, tmp_path):
    mine(tiny_lm, features, corpus, tmp_path, SEARCH)
    with pytest.raises(SelfxError, match="other features, texts or settings"):
        mine(tiny_lm, features, corpus, tmp_path, dataclasses.replace(SEARCH, seed=1))


def test_what_is_mined_and_saved_is_not_mined_again(tiny_lm, features, corpus, found, tmp_path):
    seen = []
    for _ in range(2):
        got = mined(
            *(tiny_lm, features, corpus, tmp_path, SEARCH),
            report=lambda done, total, note: seen.append(done),
        )
        same(got, found)
    assert seen[-1] == len(corpus) == max(seen)
    assert len(seen) == -(-len(corpus) // 8), "the second time nothing was read"
    with pytest.raises(SelfxError, match="exemplars with another seed"):
        mined(tiny_lm, features, corpus, tmp_path, dataclasses.replace(SEARCH, seed=1))


@pytest.mark.parametrize("name", ["windows.parquet", "contexts.parquet", "exemplars.json"])
def test_a_damaged_file_is_named(found, tmp_path, name):
    save_exemplars(found, tmp_path)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(SelfxError, match=r"cannot be read"):
        load_exemplars(tmp_path)


def test_a_damaged_state_is_named(tiny_lm, features, corpus, tmp_path):
    (tmp_path / STATE).write_bytes(b"nothing")
    with pytest.raises(SelfxError, match="delete it to start the pass over"):
        mine(tiny_lm, features, corpus, tmp_path, SEARCH)


def test_nan_in_a_direction_is_refused(tiny_lm, features, corpus):
    broken = dataclasses.replace(features, bias=features.bias.at[2].set(jnp.nan))
    with pytest.raises(SelfxError, match="not finite"):
        mine(tiny_lm, broken, corpus, search=SEARCH)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (Features(jnp.ones((2, 31)), jnp.zeros(2)), "read 31 numbers"),
        (Features(jnp.ones((2, 32)), jnp.zeros(2), layer=9), "layer 9"),
        (Features(jnp.ones((2, 32)), jnp.zeros(2), site="final_norm"), "final_norm"),
    ],
)
def test_features_that_do_not_fit_are_refused(tiny_lm, corpus, features, message):
    with pytest.raises(SelfxError, match=message):
        mine(tiny_lm, features, corpus)


def test_a_corpus_without_text_is_refused(tiny_lm):
    with pytest.raises(SelfxError, match="without text"):
        windows(tiny_lm.tokenizer, ["", "a"], context=8)


def test_windows_hold_every_token_once_after_their_lead(tiny_lm):
    text = "abcdefghij"
    found = windows(tiny_lm.tokenizer, [text, "xyz"], context=5, bos=3)
    assert (found.tokens[:, 0] == 3).all()
    rows = zip(found.tokens, found.lengths, strict=True)
    assert tiny_lm.tokenizer.decode(np.concatenate([r[1:n] for r, n in rows])) == text + "xyz"
    assert found.document.tolist() == [0, 0, 0, 1]
    assert found.start.tolist() == [0, 4, 8, 0]


def test_the_first_layers_alone_give_the_same_activations(tiny_lm, features, corpus):
    tokens = corpus.tokens[:2]
    short = first_layers(tiny_lm.model, LAYER + 1)
    assert short.config.n_layers == LAYER + 1
    assert tiny_lm.model.config.n_layers == 4, "the model itself is as it was"
    np.testing.assert_allclose(
        read(short, features, tokens), read(tiny_lm.model, features, tokens), atol=1e-5
    )


def random_sae(rule, **more):
    keys = jax.random.split(jax.random.key(0), 3)
    w_enc, w_dec = (
        jax.random.normal(k, s) for k, s in zip(keys, ((32, 20), (20, 32)), strict=False)
    )
    return Sae(w_enc, jnp.zeros(20), w_dec, jnp.zeros(32), rule=rule, layer=2, **more)


@pytest.mark.parametrize(
    ("sae", "kind"),
    [
        (random_sae("relu"), Features),
        (random_sae("jumprelu", threshold=jnp.full(20, 3.0)), Features),
        (random_sae("topk", k=3), Latents),
        (random_sae("relu", norm="layer"), Latents),
    ],
)
def test_latents_read_as_the_sae_encodes(sae, kind):
    x = jax.random.normal(jax.random.key(5), (7, 32))
    got = of_sae(sae, [4, 0, 11])
    assert isinstance(got, kind)
    assert (got.site, got.layer, got.count) == ("resid_post", 2, 3)
    np.testing.assert_allclose(got(x), encode(sae, x)[:, [4, 0, 11]], atol=1e-4)


def test_a_neuron_is_the_positive_part_of_what_the_down_map_reads(tiny_lm, corpus):
    tokens = corpus.tokens[:2]
    capture = selfx.forward(tiny_lm.model, tokens, capture=("mlp_act",)).captures["mlp_act"]
    got = read(tiny_lm.model, neurons(tiny_lm.config, 2, [3, 60]), tokens)
    np.testing.assert_allclose(got, np.maximum(capture[2][..., [3, 60]], 0), atol=1e-5)


def test_a_direction_measures_from_its_centre_whatever_its_length():
    vectors, centre = np.array([[3.0, 4.0]]), np.array([1.0, 0.0])
    x = jnp.array([[2.0, 5.0], [1.0, 0.0], [-9.0, 0.0]])
    np.testing.assert_allclose(along(vectors, layer=0, centre=centre)(x)[:, 0], [4.6, 0.0, 0.0])
    with pytest.raises(SelfxError, match="vector 0 has length 0"):
        along(np.zeros((1, 2)), layer=0)
