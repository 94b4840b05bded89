"""A decoder in Penzai and back: what is shared, what comes back, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.models.config import Experts, Rope, RopeScaling
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.testing import TINY, tiny_config, tiny_model

pz = pytest.importorskip("penzai.pz")
treescope = pytest.importorskip("treescope")
sampling_mode = pytest.importorskip("penzai.models.transformer.sampling_mode")
interop = pytest.importorskip("selfx.interop.penzai")

GEMMA = {
    "family": "gemma2",
    "norm": "rms_plus_one",
    "post_norm": True,
    "activation": "gelu_tanh",
    "windows": (3, None),
    "embed_scale": 32**0.5,
    "score_scales": (0.3,),
    "score_cap": 5.0,
    "logit_cap": 3.0,
    "tied": True,
}
NEOX = {
    "family": "gpt_neox",
    "norm": "layer",
    "parallel": True,
    "gated": False,
    "activation": "gelu",
    "n_kv_heads": 4,
    "ropes": (Rope(10_000.0, share=0.25),),
    "attention_bias": True,
    "output_bias": True,
    "mlp_bias": True,
}
KNOWN = {
    "llama": {},
    "llama-tied": {"tied": True},
    "one-key-head": {"n_kv_heads": 1},
    "as-many-key-heads": {"n_kv_heads": 4},
    "mistral": {"family": "mistral", "windows": (3,)},
    "gemma2": GEMMA,
    "gpt_neox": NEOX,
    "gpt_neox-tied": {**NEOX, "tied": True},
}
STRETCHED = Rope(1e4, RopeScaling("linear", factor=2.0, original_max_positions=8))


@pytest.fixture(params=KNOWN)
def model(request):
    return tiny_model(tiny_config(n_layers=3, **KNOWN[request.param]))


@pytest.fixture(scope="module")
def small():
    return tiny_model(tiny_config(n_layers=2))


def pointers(arrays):
    return {array.unsafe_buffer_pointer() for array in arrays}


def parameters(theirs):
    """Every distinct `pz.Parameter` in a Penzai model."""
    return pz.unbind_params(theirs)[1]


def assert_same(got, want):
    """Equal to the bit, in value, dtype and structure."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def run(theirs, tokens):
    """Penzai's logits `[b, t, v]`."""
    return theirs(pz.nx.wrap(tokens).tag("batch", "seq")).unwrap("batch", "seq", "vocabulary")


def tokens(rows=2, length=7):
    return jnp.asarray(np.random.default_rng(1).integers(6, 262, (rows, length)))


def replaced(theirs, layer, label, fn):
    """The model with one weight of one layer in a parameter of its own, changed by `fn`."""
    block = pz.select(theirs).at_instances_of(pz.nn.Residual).pick_nth_selected(2 * layer + 1)
    views = block.at_instances_of(interop.View).where(lambda view: view.whole.label == label)
    views.assert_count_is(1)
    return views.apply(lambda view: pz.Parameter(value=fn(view.value), label="mine"))


def test_nothing_is_copied(model):
    """Penzai's parameters are as many as our weights, in the same memory."""
    ours, theirs = jax.tree.leaves(model), parameters(interop.to_penzai(model))
    assert len(theirs) == len(ours)
    assert pointers(parameter.value.data_array for parameter in theirs) == pointers(ours)


def test_there_and_back_is_the_same_model(model):
    """The very arrays, not copies of them."""
    back = interop.from_penzai(interop.to_penzai(model), model.config)
    assert jax.tree.structure(back) == jax.tree.structure(model)
    for one, two in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        assert one is two


def test_layers_apart(model):
    """Each has parameters of its own, with the same values, and comes back to the bit."""
    theirs, stacked = interop.to_penzai(model, apart=True), interop.to_penzai(model)
    layers, inside = model.config.n_layers, len(jax.tree.leaves(model.blocks))
    assert len(parameters(theirs)) == len(parameters(stacked)) + (layers - 1) * inside
    views = [
        pz.select(one).at_instances_of(interop.View).get_sequence() for one in (theirs, stacked)
    ]
    for own, shared in zip(*views, strict=True):
        names = tuple(shared.value.named_shape)
        np.testing.assert_array_equal(own.value.unwrap(*names), shared.value.unwrap(*names))
    assert_same(interop.from_penzai(theirs, model.config), model)


def test_a_run_copies_nothing(small):
    """As the module's text has it run: the parameters stay where they are."""
    theirs = interop.to_penzai(small)
    cut, weights = pz.unbind_params(theirs, freeze=True)
    step = jax.jit(lambda w, x: run(pz.bind_variables(cut, w, unfreeze_as_copy=True), x))
    got, want = step(weights, tokens()), jax.jit(forward)(small, tokens()).logits
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * np.abs(want).max())
    back = interop.from_penzai(theirs, small.config)
    assert pointers(jax.tree.leaves(back)) == pointers(jax.tree.leaves(small))


def test_back_from_a_frozen_copy(model):
    """Bit-equal, though every place then holds a value of its own."""
    frozen = pz.freeze_params(interop.to_penzai(model))
    assert_same(interop.from_penzai(jax.tree.map(jnp.copy, frozen), model.config), model)


@pytest.mark.parametrize("known", ["llama", "gemma2"])
def test_a_weight_replaced_in_penzai_comes_back(known):
    """In its layer; and where Penzai stores 1 + w, as w."""
    model = tiny_model(tiny_config(n_layers=3, **KNOWN[known]))
    theirs = replaced(interop.to_penzai(model), 1, "blocks.down.w", lambda w: 2 * w)
    theirs = replaced(theirs, 2, "blocks.mlp_norm.w", lambda w: 2 * w)
    back = interop.from_penzai(theirs, model.config)
    down, norm = model.blocks.down.w[...], model.blocks.mlp_norm.w[...]
    plus = 1.0 if known == "gemma2" else 0.0
    np.testing.assert_array_equal(back.blocks.down.w[...], down.at[1].multiply(2))
    want = norm.at[2].set(2 * (norm[2] + plus) - plus)
    np.testing.assert_array_equal(back.blocks.mlp_norm.w[...], want)
    assert back.blocks.up.w[...] is model.blocks.up.w[...]


def test_logits_after_a_weight_was_replaced(small):
    """Penzai's logits with the new weight are ours from the model that came back."""
    theirs = replaced(interop.to_penzai(small), 1, "blocks.down.w", lambda w: 2 * w)
    want = pz.variable_jit(run)(theirs, tokens())
    got = jax.jit(forward)(interop.from_penzai(theirs, small.config), tokens()).logits
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * np.abs(want).max())
    before = jax.jit(forward)(small, tokens()).logits
    assert np.abs(got - before).max() > 0.01 * np.abs(want).max()


def test_inside_jit_and_grad(small):
    """Traced weights go there and back, and gradients reach them through Penzai's code."""

    def loss(logits):
        return jax.nn.log_softmax(logits)[:, -1, 7].sum()

    @jax.jit
    def gradients(model, tokens):
        theirs = jax.grad(lambda model: loss(run(interop.to_penzai(model), tokens)))(model)
        return theirs, jax.grad(lambda model: loss(forward(model, tokens).logits))(model)

    theirs, ours = gradients(small, tokens())
    for got, want in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * np.abs(want).max())
    back = jax.jit(lambda m: interop.from_penzai(interop.to_penzai(m), m.config))(small)
    assert_same(back, small)
    frozen = pz.freeze_params(interop.to_penzai(small))
    assert_same(jax.jit(lambda f: interop.from_penzai(f, small.config))(frozen), small)


def test_bfloat16_weights_with_float32_activations(small):
    """The logits of the same weights in float32, and nothing is copied."""
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small)
    whole = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    theirs = interop.to_penzai(half, activations=jnp.float32)
    assert pointers(p.value.data_array for p in parameters(theirs)) == pointers(
        jax.tree.leaves(half)
    )
    got, want = pz.variable_jit(run)(theirs, tokens()), jax.jit(forward)(whole, tokens()).logits
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * np.abs(want).max())
    assert_same(interop.from_penzai(theirs, half.config), half)


def test_penzais_cache_writes_what_ours_writes(small):
    """Its sampling mode takes the exported model as it takes its own."""
    start, n = tokens(rows=2, length=5), 3
    want = generate(small, start, max_new_tokens=n).tokens
    sampler = sampling_mode.KVCachingTransformerLM.from_uncached(
        interop.to_penzai(small), cache_len=16, batch_axes={"batch": 2}
    )
    step = pz.variable_jit(lambda sampler, text: run(sampler, text)[:, -1:].argmax(-1))
    text, written = start, []
    for _ in range(n):
        text = step(sampler, text)
        written.append(text)
    np.testing.assert_array_equal(jnp.concatenate(written, axis=1), want)


def test_treescope_shows_the_model(small):
    """Our paths as the parameters' labels, and the axes that Penzai sees."""
    html = treescope.render_to_html(interop.to_penzai(small), compressed=False)
    for words in ("blocks.q.w", "head_groups/query_heads/projection", "&#x27;query_heads&#x27;"):
        assert words in html, words


REFUSED = {
    "stretched rotary positions": {"ropes": (STRETCHED,)},
    "layers without rotary positions": {"ropes": (Rope(1e4), None)},
    "rotary positions that differ from layer to layer": {"ropes": (Rope(1e4), Rope(1e6))},
    "part of each head turned": {"ropes": (Rope(1e4, share=0.5),)},
    "normed queries and keys": {"qk_norm": "head"},
    "a mixture of experts": {"experts": Experts(4, 2, True)},
    "learned positions": {"learned_positions": True},
    "layers that read the residual without a norm": {"pre_norm": False},
    "scales of scores that differ from layer to layer": {"score_scales": (0.1, 0.2)},
    "biases beside RMSNorm": {"attention_bias": True},
    "attention and MLP in parallel": {"parallel": True},
    "an MLP without a gate": {"gated": False},
    "relu in its MLP": {"activation": "relu"},
    "maps that add no bias": {**NEOX, "mlp_bias": False},
    "its MLP after the attention": {**NEOX, "parallel": False},
    "a gated MLP beside LayerNorm": {**NEOX, "gated": True},
    "grouped queries": {**NEOX, "n_kv_heads": 2},
    "norms after attention and MLP": {**NEOX, "post_norm": True},
    "windows": {**NEOX, "windows": (4, None)},
    "soft caps": {**NEOX, "logit_cap": 30.0},
    "another scale of scores": {**NEOX, "score_scales": (0.1,)},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_penzai_would_leave_out_raises(why):
    """By name, and nothing else is named."""
    with pytest.raises(SelfxError) as caught:
        interop.to_penzai(tiny_model(tiny_config(**REFUSED[why])))
    assert f"model with {why}: Penzai" in caught.value.got
    assert "captures_to_named" in caught.value.hint


def test_a_model_cut_up_in_penzai_is_no_decoder(small):
    """A layer too many would be lost without a word."""
    theirs = pz.select(interop.to_penzai(small)).at_instances_of(pz.nn.Attention)
    cut = theirs.insert_after(pz.nn.ConstantRescale(by=0.5))
    with pytest.raises(SelfxError, match="layers are not those of the config"):
        interop.from_penzai(cut, small.config)


@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 3},
        {"norm_eps": 1e-3},
        {"ropes": (Rope(20_000.0),)},
        {"windows": (4,)},
        {"score_scales": (0.5,)},
        {"tied": True},
        {"n_kv_heads": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_config_raises(small, change):
    """In a number, even where all shapes agree."""
    config = dataclasses.replace(small.config, **change)
    with pytest.raises(SelfxError, match="layers are not those of the config"):
        interop.from_penzai(interop.to_penzai(small), config)


def test_another_width_raises(small):
    config = dataclasses.replace(small.config, d_ff=2 * TINY.d_ff)
    with pytest.raises(SelfxError, match=r"neurons.* at blocks\.(gate|up|down)\.w"):
        interop.from_penzai(interop.to_penzai(small), config)
