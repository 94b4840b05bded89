"""What must not change a result: padding, company in a batch, a cache, asking for less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from selfx.errors import SelfxError
from selfx.interventions.build import patch, steer
from selfx.models import cache as caches
from selfx.models.block import MAPS
from selfx.models.config import Rope, RopeScaling
from selfx.models.decoder import Decoder, forward
from selfx.models.parameters import from_parameters, parameter_count, parameter_shapes
from selfx.models.sites import SITES
from selfx.models.tap import At
from selfx.testing import TINY, tiny_config, tiny_model

LENGTH, WIDTH = 12, 20
BIASES = {"attention_bias": True, "output_bias": True, "mlp_bias": True}
TOLERANCE = 1e-5
STATIC = ("capture",)


@functools.partial(jax.jit, static_argnames=STATIC)
def run(model, tokens, mask=None, edits=None, cache=None, lora=None, capture=tuple(SITES)):
    return forward(model, tokens, mask=mask, edits=edits, cache=cache, lora=lora, capture=capture)


@pytest.fixture(scope="module")
def text():
    return np.random.default_rng(5).integers(6, 262, LENGTH)


def assert_same(got, want, what=""):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, what
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= TOLERANCE, f"{what}: off by {worst:.1e} of its scale"


def paddings(width, length):
    """Masks `[n, width]` of `length` real tokens: 0, 1 and 7 pads before them, after, and both."""
    free = width - length
    lefts = (0, 1, 7, free)
    masks = [np.roll(np.arange(width) < length, left) for left in lefts]
    scattered = np.ones(width, bool)
    scattered[[0, 3, 4, 9, 11, 15, 18, 19][:free]] = False
    return np.stack([*masks, scattered])


def padded(text, width):
    """The text under every padding, each pad a different token: `(tokens, mask)`, `[n, width]`."""
    mask = paddings(width, len(text))
    tokens = np.random.default_rng(6).integers(0, 262, mask.shape)
    tokens[mask] = np.tile(text, len(mask))
    return tokens, mask


def real(x, site, mask):
    """`x` `[l, t, ...]` or `[t, ...]` of one padded row without what belongs to its pads."""
    axis = 1 if SITES[site].layered else 0
    x = np.compress(mask, x, axis=axis)
    return np.compress(mask, x, axis=-1) if "s" in SITES[site].axes else x


def row(captures, site, index):
    x = np.asarray(captures[site])
    return x[:, index] if SITES[site].layered else x[index]


EDITS = {
    "plain": None,
    "edited": steer("resid_post", np.linspace(-3, 3, 32), layers=[0, 2], positions=3)
    | patch("attn_probs", 0.25, layers=1, positions=LENGTH - 1)
    | patch("embeddings", 0.5, positions=0),
}


@pytest.mark.parametrize(("scaling", "edits"), [(None, "edited"), ("dynamic", "plain")])
def test_padding_changes_nothing_at_any_site(text, scaling, edits):
    """Under `dynamic` scaling the length that counts is that of the real tokens."""
    rope = scaling and RopeScaling("dynamic", 4.0, 8)
    model = tiny_model(tiny_config(ropes=(Rope(1e4, rope),)))
    tokens, mask = padded(text, WIDTH)
    alone = run(model, text[None], edits=EDITS[edits])
    together = run(model, tokens, mask, edits=EDITS[edits])
    for index in range(len(tokens)):
        for site in SITES:
            got = real(row(together.captures, site, index), site, mask[index])
            want = row(alone.captures, site, 0)
            if site == "attn_scores":  # before the mask: a pad's place in the future is no matter
                seen = np.tril(np.ones((LENGTH, LENGTH), bool))[:, None, :]
                got, want = np.where(seen, got, 0), np.where(seen, want, 0)
            assert_same(got, want, f"{site} of row {index}")
        assert_same(together.logits[index][mask[index]], alone.logits[0], f"logits of row {index}")


def test_pads_are_never_nan(tiny, text):
    """Not even in a row of nothing but pads."""
    tokens, mask = padded(text, WIDTH)
    mask[1] = False
    out = run(tiny, tokens, mask)
    for name, x in {**out.captures, "logits": out.logits}.items():
        assert np.isfinite(x).all(), name
    weights = np.asarray(out.captures["attn_probs"])
    assert not weights[:, 1].any()
    assert not weights[:, ~mask].any()


def test_no_edit_touches_a_pad(tiny, text):
    """Not even one at every position; else a sum over a capture would show it."""
    tokens, mask = padded(text, WIDTH)
    out = run(tiny, tokens, mask, edits=patch("resid_post", 7.0) | steer("embeddings", np.ones(32)))
    after = np.asarray(out.captures["resid_post"])
    assert (after[:, mask] == 7).all()
    assert not (after[:, ~mask] == 7).any()
    raw = np.asarray(tiny.embed)[tokens]
    np.testing.assert_array_equal(np.asarray(out.captures["embeddings"])[~mask], raw[~mask])


def test_a_batch_is_its_rows():
    """Rows of two lengths, under a scaling that goes by each row's own."""
    model = tiny_model(tiny_config(ropes=(Rope(1e4, RopeScaling("dynamic", 4.0, 4)),)))
    tokens = np.random.default_rng(7).integers(6, 262, (4, LENGTH))
    lengths = (LENGTH, 7, 7, LENGTH)
    mask = np.arange(LENGTH) < np.array(lengths)[:, None]
    together = run(model, tokens, mask)
    for index, length in enumerate(lengths):
        alone = run(model, tokens[index : index + 1, :length])
        for site in set(SITES) - {"attn_scores"}:
            got = real(row(together.captures, site, index), site, mask[index])
            assert_same(got, row(alone.captures, site, 0), site)


def test_the_future_is_not_seen(tiny, text):
    """Bit for bit: no score, however high or low, lets a later token through."""
    other = text.copy()
    other[8:] = 6
    for edits in (None, patch("attn_scores", -np.inf, layers=1), patch("attn_scores", 1e38)):
        one, two = (run(tiny, x[None], edits=edits).logits[0, :8] for x in (text, other))
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, two)


def test_a_score_of_minus_infinity_cuts_an_edge(tiny, text):
    """One source cut leaves the others' weights in proportion; all cut leaves none."""
    source = np.arange(LENGTH) == 2
    one = patch("attn_scores", -np.inf, layers=1, part=source[None])
    every = patch("attn_scores", -np.inf, layers=1)
    plain, cut, gone = (
        np.asarray(run(tiny, text[None], edits=edits).captures["attn_probs"][1, 0])
        for edits in (None, one, every)
    )
    left = np.where(source, 0, plain[6])
    assert_same(cut[6], left / left.sum(axis=-1, keepdims=True))
    assert not cut[..., 2].any()
    assert not gone.any()


CHUNKS = {"steps": (8, 1, 1, 1, 1), "chunks": (4, 4, 4)}


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_cache_changes_nothing(tiny, text, chunks):
    """Prompt and steps, with rows padded differently and an edit in either part."""
    edits = steer("resid_post", np.linspace(-3, 3, 32), layers=1, positions=2) | patch(
        "z", 0.5, layers=2, positions=9
    )
    capture = ("query", "resid_post", "final_norm")
    mask = np.ones((3, LENGTH), bool)
    mask[0, :3] = mask[1, 4] = False
    tokens = np.stack([text, text[::-1], text])
    want = run(tiny, tokens, mask, edits=edits, capture=capture)
    cache = caches.empty(tiny.config, 3, LENGTH + 2, jnp.float32)
    start, seen = 0, []
    for size in CHUNKS[chunks]:
        part = slice(start, start + size)
        out = run(tiny, tokens[:, part], mask[:, part], edits, cache, capture=capture)
        cache, start = out.cache, start + size
        seen.append(out)
    assert int(cache.filled) == LENGTH
    assert cache.next_position.tolist() == mask.sum(axis=1).tolist()
    logits = np.concatenate([out.logits for out in seen], axis=1)
    assert_same(logits[mask], np.asarray(want.logits)[mask], "logits")
    for site in capture:
        axis = 2 if SITES[site].layered else 1
        got = np.concatenate([out.captures[site] for out in seen], axis=axis)
        want_here = np.asarray(want.captures[site])
        at_real = (slice(None), mask) if SITES[site].layered else mask
        assert_same(got[at_real], want_here[at_real], site)


def test_captures_at_are_slices(tiny, text):
    """Of every site, at layers in any order and at positions that differ from row to row."""
    tokens, mask = padded(text, WIDTH)
    order, wanted = (2, 0), np.array([[0, 11], [3, 3], [5, 1], [LENGTH, 4], [-1, 7]])
    capture = {
        site: At(positions=wanted, layers=order if about.layered else None)
        for site, about in SITES.items()
    }
    whole = run(tiny, tokens, mask).captures
    part = jax.jit(lambda *args: forward(*args[:2], mask=args[2], capture=capture).captures)(
        tiny, tokens, mask
    )
    for site, about in SITES.items():
        for index, positions in enumerate(wanted):
            got, full = row(part, site, index), row(whole, site, index)
            if about.layered:  # positions first
                got, full = got.swapaxes(0, 1), full[list(order)].swapaxes(0, 1)
            slots = np.flatnonzero(mask[index])
            for place, position in enumerate(positions):
                if 0 <= position < LENGTH:
                    np.testing.assert_array_equal(got[place], full[slots[position]], site)
                else:
                    assert not got[place].any(), site


def test_captures_of_layers_at_every_position(tiny, text):
    whole = run(tiny, text[None]).captures

    def read(at):
        capture = {"resid_mid": at, "attn_probs": at}
        return lambda: forward(tiny, text[None], capture=capture).captures

    part = jax.jit(read(At(layers=(3, 1))))()
    for site, got in part.items():
        assert_same(got, whole[site][np.array([3, 1])], site)
    for layers in ([3, 1], np.array([3, 1]), range(3, 0, -2)):
        assert jax.eval_shape(read(At(layers=layers))) == jax.eval_shape(lambda: part)
    one = jax.eval_shape(read(At(positions=4, layers=0)))
    assert one["resid_mid"].shape == (1, 1, 1, 32)


@pytest.mark.parametrize("capture", [(), ("final_norm", "logits")])
def test_logits_at_are_slices(tiny, text, capture):
    tokens, mask = padded(text, WIDTH)
    last = mask.sum(axis=1) - 1
    at = np.stack([last, np.zeros_like(last)], axis=1)
    whole = run(tiny, tokens, mask)
    part = jax.jit(lambda at: forward(tiny, tokens, mask=mask, logits_at=at, capture=capture))(at)
    for index in range(len(tokens)):
        want = whole.logits[index][mask[index]][np.array([LENGTH - 1, 0])]
        assert_same(part.logits[index], want)
    for site in capture:
        assert_same(part.captures[site], whole.captures[site])


def test_neighbouring_sites_agree(tiny, text):
    """Sums and copies that hold between sites by definition."""
    at = {site: np.asarray(x) for site, x in run(tiny, text[None]).captures.items()}
    assert_same(at["resid_pre"][0], at["embeddings"])
    assert_same(at["resid_pre"][1:], at["resid_post"][:-1])
    assert_same(at["resid_mid"], at["resid_pre"] + at["attn_out_post"])
    assert_same(at["resid_post"], at["resid_mid"] + at["mlp_out_post"])
    assert_same(at["attn_out_post"], at["attn_out"])
    assert_same(at["mlp_out_post"], at["mlp_out"])
    assert_same(at["attn_probs"].sum(axis=-1), np.ones(at["attn_probs"].shape[:-1]))


@struct.dataclass
class LowRank:
    down: jax.Array
    up: jax.Array

    def __call__(self, x):
        return x @ self.down @ self.up


def test_adapters_are_their_merged_weights(text):
    """On all seven maps, other ones in every layer, beside biases too."""
    config = tiny_config(attention_bias=True, output_bias=True, mlp_bias=True)
    base, merged = tiny_model(config), tiny_model(config)
    rng = np.random.default_rng(8)
    lora = {}
    for name in MAPS:
        w = getattr(merged.blocks, name).w
        layers, n_in, n_out = w.shape
        down, up = rng.standard_normal((layers, n_in, 3)), rng.standard_normal((layers, 3, n_out))
        lora[name] = LowRank(jnp.asarray(0.1 * down, "float32"), jnp.asarray(up, "float32"))
        w[...] = w[...] + np.float32(0.1 * down @ up)
    off = jax.tree.map(jnp.zeros_like, lora)
    plain, got, want = (
        run(model, text[None], capture=("resid_post",), lora=adapters)
        for model, adapters in ((base, off), (base, lora), (merged, off))
    )
    assert_same(got.captures["resid_post"], want.captures["resid_post"])
    assert_same(got.logits, want.logits)
    assert np.abs(plain.logits - want.logits).max() > 0.1
    for name in MAPS:
        alone = {other: lora[other] if other == name else off[other] for other in MAPS}
        got = run(base, text[None], capture=("resid_post",), lora=alone)
        assert np.abs(plain.logits - got.logits).max() > 0.01, name


def test_parameters_by_path():
    for config in (
        TINY,
        tiny_config(tied=True, attention_bias=True, output_bias=True, mlp_bias=True),
    ):
        shapes = parameter_shapes(config, jnp.bfloat16)
        assert sum(leaf.size for leaf in shapes.values()) == parameter_count(config)
        assert {leaf.dtype for leaf in shapes.values()} == {jnp.dtype(jnp.bfloat16)}
        made = from_parameters(config, {k: np.zeros(s.shape) for k, s in shapes.items()}, "float32")
        assert isinstance(made, Decoder)
        assert made.config == config
        assert (made.unembed is None) == config.tied
    assert shapes["blocks.q.b"].shape == (4, 32)
    assert parameter_shapes(TINY)["blocks.k.w"].shape == (4, 32, 16)


def test_a_fresh_decoder_has_the_same_tree():
    made = jax.eval_shape(lambda: Decoder(TINY, jax.random.key(0)))
    assert jax.tree.structure(made) == jax.tree.structure(tiny_model())
    assert made.embed.shape == (TINY.vocab_size, TINY.d_model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": np.arange(5)}, "tokens of shape [5]"),
        ({"mask": np.ones((1, 4), bool)}, "a mask of shape [1, 4]"),
        ({"capture": ("resid_pots",)}, "did you mean 'resid_post'"),
        ({"capture": {"resid_post": At(layers=(4,))}}, "a layer from 0 to 3"),
        ({"capture": {"resid_post": At(layers=-1)}}, "a layer from 0 to 3"),
        ({"capture": {"resid_post": At(layers=())}}, "some, each once"),
        ({"capture": {"resid_post": At(layers=(1, 1))}}, "some, each once"),
        ({"capture": {"logits": At(layers=(0,))}}, "outside the layers"),
        ({"lora": {"qq": None}}, "adapters for qq"),
        ({"cache": caches.empty(TINY, 1, 4, jnp.float32)}, "4 slots"),
        ({"cache": caches.empty(TINY, 2, 9, jnp.float32)}, "as many rows"),
    ],
)
def test_what_does_not_fit_raises(tiny, change, words):
    arguments = {"tokens": np.arange(5)[None], **change}
    with pytest.raises(SelfxError) as caught:
        forward(tiny, arguments.pop("tokens"), **arguments)
    assert words in str(caught.value)


def test_a_full_cache_raises(tiny):
    cache = caches.empty(tiny.config, 1, 6, jnp.float32)
    cache = forward(tiny, np.arange(5)[None], cache=cache).cache
    with pytest.raises(SelfxError, match="5 of 6 slots"):
        forward(tiny, np.arange(2)[None], cache=cache)
