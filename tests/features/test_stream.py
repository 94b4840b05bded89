import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.features.training.packing import Packed, pack
from selfx.features.training.shuffle import Shuffle
from selfx.features.training.stream import first_layers, source, stream, stream_arrays
from selfx.testing import tiny_config, tiny_model, tiny_tokenizer

TEXTS = ["The cat sat on the mat.", "A second document, a little longer than that.", "Third."]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def shuffle(tokens=1000, part=50, **settings):
    """The plan of a corpus of which every seventh token is left out."""
    kept = np.arange(tokens).reshape(-1, part) % 7 != 0
    return Shuffle(kept, **{"size": 200, "batch": 64, "seed": 3, **settings})


def served(plan, turns):
    """The corpus' tokens in the order in which a buffer of token numbers gives them out."""
    buffer = np.full(plan.size + 1, -1)
    for turn in turns:
        for chunk, places in turn.fills:
            buffer[places] = chunk * plan.kept.shape[1] + np.arange(plan.kept.shape[1])
            buffer[-1] = -1
        assert (buffer[turn.drawn] >= 0).all()
        yield buffer[turn.drawn].copy()
        buffer[turn.drawn] = -1


def some(iterator, count):
    """The first few, one at a time: a buffer is used up by the next."""
    for _, item in zip(range(count), iterator, strict=False):
        yield item


def test_no_token_comes_twice_in_a_pass_and_fewer_than_a_batch_are_left_out():
    plan = shuffle()
    kept = np.flatnonzero(plan.kept.ravel())
    first, second = np.split(
        np.concatenate(list(some(served(plan, plan.turns()), 2 * plan.steps))), 2
    )
    for seen in (first, second):
        assert len(set(seen)) == len(seen) > len(kept) - plan.batch
        assert set(seen) <= set(kept)
    assert (first != second).any()


def test_a_batch_is_mixed_from_far_apart():
    plan = shuffle()
    batches = list(some(served(plan, plan.turns()), 8))
    for batch in batches:
        assert len(set(batch // plan.kept.shape[1])) >= 3
    following = np.mean([np.abs(np.diff(batch)) == 1 for batch in batches])
    assert following < 0.05


def test_the_plan_goes_on_from_any_step_and_follows_the_seed():
    plan = shuffle()
    whole = list(some(plan.turns(), 20))
    for start in (1, 7, plan.steps, plan.steps + 2):
        for ours, theirs in zip(plan.turns(start), whole[start:], strict=False):
            np.testing.assert_array_equal(ours.drawn, theirs.drawn)
            assert [c for c, _ in ours.fills] == [c for c, _ in theirs.fills]
    other = next(shuffle(seed=4).turns())
    assert (other.drawn != whole[0].drawn).any()


@pytest.mark.parametrize("settings", [{"size": 100}, {"batch": 2000, "size": 5000}])
def test_a_buffer_too_small_and_a_text_too_short_are_refused(settings):
    with pytest.raises(SelfxError, match="expected: at least"):
        shuffle(**settings)


def test_documents_are_packed_with_separators_where_no_token_begins_a_text(tokenizer):
    packed = pack(tokenizer, TEXTS, context=16)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    end = tokenizer.eos_token_id
    expected = [*ids[0], end, *ids[1], end, *ids[2]]
    assert packed.tokens[packed.mask].tolist() == expected
    assert packed.bos is None
    assert not packed.kept[:, 0].any(), "position 0 is never trained on"
    assert not packed.kept[packed.tokens == end].any()
    unused = (~packed.kept & packed.mask).sum()
    assert unused == len(packed) + 2, "nothing else is left out"


def test_a_token_that_begins_texts_begins_every_row_and_document():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    begin = tokenizer.bos_token_id
    packed = pack(tokenizer, TEXTS, context=16, bos=True)
    assert packed.bos == begin
    assert (packed.tokens[:, 0] == begin).all()
    ids = [tokenizer(text).input_ids for text in TEXTS]
    inner = packed.tokens[:, 1:][packed.mask[:, 1:]].tolist()
    assert inner == [*ids[0], begin, *ids[1], begin, *ids[2]]
    assert not packed.kept[packed.tokens == begin].any()
    assert pack(tokenizer, TEXTS, context=16).bos is None, "this tokenizer puts nothing there"


def test_packing_refuses_what_cannot_be(tokenizer):
    with pytest.raises(SelfxError, match="without text"):
        pack(tokenizer, ["", ""])
    with pytest.raises(SelfxError, match="context=1"):
        pack(tokenizer, TEXTS, context=1)
    with pytest.raises(SelfxError, match="bos=True"):
        pack(tokenizer, TEXTS, bos=True)


@pytest.fixture(scope="module")
def text():
    """Forty rows of random tokens, the last one short."""
    tokens = np.random.default_rng(0).integers(6, 262, (40, 12)).astype(np.int32)
    mask = np.ones(tokens.shape, bool)
    mask[-1, 5:] = False
    kept = mask & (np.arange(12) > 0)
    return Packed(tokens, mask, kept)


@pytest.mark.parametrize(("site", "out_site"), [("resid_post", None), ("mlp_in", "mlp_out_post")])
def test_every_batch_holds_the_models_own_activations(text, tiny, site, out_site):
    """Each kept token's activations, at two layers, come out once in a pass, and nothing else."""
    read = source(tiny, site, (2, 0), out_site)
    batches = stream(read, text, rows=4, size=160, batch=64, seed=1)
    capture = {name: selfx.At(layers=(2, 0)) for name in {site, out_site or site}}
    run = jax.jit(
        lambda model, tokens, mask: selfx.forward(model, tokens, mask=mask, capture=capture)
    )
    seen = run(tiny, text.tokens, text.mask).captures
    expected = [np.asarray(seen[name])[:, text.kept] for name in (site, out_site or site)]
    taken = [[], []]
    for buffer, places in some(batches.batches(), batches.shuffle.steps):
        for into, part in zip(taken, buffer.take(jnp.asarray(places)), strict=True):
            into.append(np.asarray(part))
    nearest = []
    for got, want in zip((np.concatenate(t, axis=1) for t in taken), expected, strict=True):
        for layer in range(2):
            apart = np.abs(got[layer][:, None] - want[layer][None]).max(axis=2)
            assert apart.min(axis=1).max() < 5e-5 * np.abs(want).max()
            nearest.append(apart.argmin(axis=1))
    for other in nearest:
        np.testing.assert_array_equal(other, nearest[0], "layers and sites of one token together")
    assert len(set(nearest[0])) == len(nearest[0]) == batches.shuffle.steps * 64


def test_one_program_reads_all_chunks(text, tiny):
    read = source(tiny, "resid_post", (1,))
    batches = stream(read, text, rows=8, size=200, batch=64)
    assert sum(1 for _ in some(batches.batches(), 2 * batches.shuffle.steps)) > 8
    assert batches.fill._cache_size() == 1


def test_a_resumed_stream_gives_the_same_batches_to_the_bit(text, tiny):
    batches = stream(source(tiny, "resid_post", (1,)), text, rows=4, size=160, batch=64, seed=5)
    whole = []
    for step, (buffer, places) in enumerate(some(batches.batches(), 10)):
        whole.append(np.asarray(buffer.take(jnp.asarray(places))[0]))
        if step == 3:
            kept = jax.tree.map(lambda x: x.copy(), buffer)
    resumed = batches.batches(kept, start=4)
    for step, (buffer, places) in enumerate(some(resumed, 6), 4):
        np.testing.assert_array_equal(buffer.take(jnp.asarray(places))[0], whole[step])


def test_layers_after_the_highest_are_not_run(tiny):
    """Also where layers differ by a pattern: the first ones are the same."""
    model = tiny_model(tiny_config(windows=(4, None), n_layers=4))
    short = first_layers(model, 3)
    assert short.config.n_layers == 3
    assert short.blocks.q.w[...].shape[0] == 3
    tokens = jnp.arange(6, 18)[None]
    capture = {"resid_post": selfx.At(layers=(2,))}
    run = jax.jit(lambda model: selfx.forward(model, tokens, capture=capture).captures)
    chex.assert_trees_all_close(run(short), run(model), rtol=1e-6)
    assert first_layers(model, 4) is model


def test_sites_without_a_width_of_their_own_are_refused(tiny):
    for site, layers in (
        ("attn_probs", (0,)),
        ("logits", (0,)),
        ("resid_post", (9,)),
        ("rsid", (0,)),
    ):
        with pytest.raises(SelfxError):
            source(tiny, site, layers)


def test_heads_lie_side_by_side(text, tiny):
    assert source(tiny, "z", (0,)).widths == (32, None)


def test_arrays_are_shuffled_like_text():
    x = jnp.arange(100.0)[None, :, None]
    batches = stream_arrays(x, 2 * x, size=64, batch=16)
    pairs = [buffer.take(jnp.asarray(drawn)) for buffer, drawn in some(batches.batches(), 6)]
    seen = np.concatenate([np.asarray(a)[0, :, 0] for a, _ in pairs])
    assert len(set(seen.tolist())) == 96
    for a, b in pairs:
        np.testing.assert_array_equal(2 * a, b)
