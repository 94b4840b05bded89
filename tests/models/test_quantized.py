"""A base in few bits: the numbers themselves against NumPy, and all that runs on them against the
same model with those numbers as floats."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import selfx
from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.models.config import Experts
from selfx.models.decoder import Decoder
from selfx.models.parameters import from_parameters, parameter_path
from selfx.models.quantized import METHODS, is_quantized, quantize
from selfx.models.quantized import Quantized as Quant
from selfx.testing import TINY, tiny_config, tiny_model
from selfx.weights.digest import weights_hash

pytest.importorskip("qwix")

TOLERANCE = 5e-5
TILE = 16
CONFIGS = {
    "llama": tiny_config(n_layers=2),
    "biased, ungated": tiny_config(
        n_layers=2, attention_bias=True, output_bias=True, mlp_bias=True, gated=False, norm="layer"
    ),
    "experts": tiny_config(n_layers=2, experts=Experts(4, 2, True)),
}
NF4 = (  # QLoRA's, appendix E
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
LEVELS = {"int8": np.arange(-128, 128) / 127.5, "nf4": np.array(NF4)}
TOKENS = np.random.default_rng(0).integers(6, 262, (2, 9))


@pytest.fixture(scope="module", params=CONFIGS)
def floats(request):
    return tiny_model(CONFIGS[request.param], seed=3)


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def pair(method):
    """A quantised model, and one of plain arrays that hold the floats it stands for."""
    small = quantize(tiny_model(CONFIGS["llama"], seed=3), method, tile=TILE)
    return small, spelt_out(small)


def by_path(model):
    """`{path: weight}`, a quantised one whole."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda x: isinstance(x, Quant))
    return {parameter_path(path): leaf for path, leaf in leaves}


def spelt_out(model) -> Decoder:
    weights = {path: leaf[...] for path, leaf in by_path(model).items()}
    return from_parameters(model.config, weights, model.embed[...].dtype)


def assert_nearest(got, weight, levels, tile):
    """Each of `[..., in, out]` is the nearest level times the largest of its tile of inputs."""
    got, w = (
        np.asarray(x, np.float64).reshape(*x.shape[:-2], -1, tile, x.shape[-1])
        for x in (got, weight)
    )
    largest = np.abs(w).max(axis=-2, keepdims=True)
    at = np.abs((got / largest)[..., None] - levels)
    assert at.min(axis=-1).max() < 1e-6
    best = np.abs((w / largest)[..., None] - levels).min(axis=-1)
    assert (np.abs(got - w) / largest - best).max() < 1e-6


def close(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= TOLERANCE, f"off by {worst:.1e} of its scale"


@pytest.mark.model
@pytest.mark.parametrize(("name", "error", "same"), [("int8", 0.025, 0.93), ("nf4", 0.25, 0.55)])
def test_smollm2_stays_near_itself(smollm2, name, error, same):
    """Over 200 tokens of text: logits, and which token comes next (bfloat16: 0.012 and 0.97)."""
    text = selfx.__doc__
    tokens = smollm2.tokenizer([text], return_tensors="np").input_ids[:, :200]
    run = jax.jit(selfx.forward)
    want = np.asarray(run(smollm2.model, tokens).logits)
    got = np.asarray(run(quantize(smollm2.model, name), tokens).logits)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < error
    assert (got.argmax(-1) == want.argmax(-1)).mean() > same


def test_maps_are_rounded_as_defined_and_nothing_else_is_touched(floats, method):
    before, after = by_path(floats), by_path(quantize(floats, method, tile=TILE))
    assert before.keys() == after.keys()
    for path, weight in before.items():
        router = path == "blocks.experts.router.w"
        if path.startswith("blocks.") and not path.endswith((".b", "norm.w")) and not router:
            assert_nearest(after[path][...], np.asarray(weight), LEVELS[method], TILE)
            assert isinstance(after[path], Quant)
        else:
            np.testing.assert_array_equal(after[path], weight)


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("nf4", 4)])
def test_a_weight_takes_its_bits_and_a_share_of_a_scale(name, bits):
    weight = by_path(quantize(tiny_model(), name, tile=32))["blocks.down.w"]
    size = sum(leaf.on_device_size_in_bytes() for leaf in jax.tree.leaves(weight))
    assert size == TINY.n_layers * TINY.d_ff * TINY.d_model * (bits + 32 / 32) / 8


def test_forward_is_that_of_the_floats_it_stands_for(floats, method):
    small = quantize(floats, method, tile=TILE)
    run = jax.jit(selfx.forward)
    close(run(small, TOKENS).logits, run(spelt_out(small), TOKENS).logits)


def test_bfloat16_stays_bfloat16(method):
    small = quantize(tiny_model(dtype=jnp.bfloat16), method)
    assert small.blocks.q.w[...].dtype == jnp.bfloat16
    out = jax.eval_shape(lambda: selfx.forward(small, TOKENS, capture=("resid_post",)))
    assert out.captures["resid_post"].dtype == jnp.bfloat16


def test_captures_edits_and_vmap_over_edits(pair):
    vectors = np.random.default_rng(1).normal(size=(3, TINY.d_model)).astype(np.float32)

    def run(model, vector):
        edits = selfx.patch("resid_post", vector, layers=1, positions=4)
        out = selfx.forward(model, TOKENS, edits=edits, capture=("attn_probs", "resid_post"))
        return out.logits, out.captures

    batched = jax.jit(jax.vmap(run, in_axes=(None, 0)))
    small, plain = (batched(model, vectors) for model in pair)
    jax.tree.map(close, small, plain)
    np.testing.assert_array_equal(small[1]["resid_post"][:, 1, 0, 4], vectors)


def test_generation_with_layers_stacked_and_apart(pair):
    small, plain = pair
    want = selfx.generate(plain, TOKENS, max_new_tokens=4).tokens
    layers = selfx.apart(small)
    assert is_quantized(layers)
    for apart in (None, layers):
        got = selfx.generate(small, TOKENS, max_new_tokens=4, layers=apart).tokens
        np.testing.assert_array_equal(got, want)


def loss(adapters, model, tokens):
    logits = selfx.forward(model, tokens, lora=adapters).logits[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def test_adapters_train_on_it_as_on_the_floats(pair):
    """Gradients equal those through the floats, and steps along them lower the loss."""
    small, plain = pair
    adapters = lora.init(small.config, rank=2, alpha=4, key=jax.random.key(0))
    adapters = jax.tree.map(lambda leaf: leaf + 0.02, adapters)
    step = jax.jit(jax.value_and_grad(loss))
    jax.tree.map(close, step(adapters, small, TOKENS), step(adapters, plain, TOKENS))
    losses = []
    for _ in range(8):
        now, slope = step(adapters, small, TOKENS)
        adapters = jax.tree.map(lambda leaf, by: leaf - 0.5 * by, adapters, slope)
        losses.append(float(now))
    assert losses[-1] < 0.8 * losses[0]


def test_a_mesh_shares_it_out(method):
    config = tiny_config(n_layers=2, experts=Experts(4, 2, True))
    small = quantize(tiny_model(config), method, tile=TILE)
    spread = selfx.shard(small, selfx.make_mesh(data=2, model=2))
    for path in ("q.w", "o.w", "experts.down"):
        for leaf in jax.tree.leaves(by_path(spread)[f"blocks.{path}"]):
            assert leaf.addressable_shards[0].data.size * 2 == leaf.size, path
    run = jax.jit(selfx.forward)
    close(run(spread, TOKENS).logits, run(small, TOKENS).logits)


def test_quantising_a_sharded_model_is_quantising_it(method):
    model = tiny_model(CONFIGS["llama"])
    spread = quantize(selfx.shard(model, selfx.make_mesh(data=2, model=2)), method)
    jax.tree.map(np.testing.assert_array_equal, spread, quantize(model, method))


def test_as_many_inputs_share_a_scale_as_divide_them():
    config = tiny_config(n_layers=1, d_ff=48)  # queries read 32 inputs, `down` 48
    weights = by_path(quantize(tiny_model(config), "int8"))
    assert weights["blocks.q.w"].scale.shape == (1, 1, 32)
    assert weights["blocks.down.w"].scale.shape == (1, 3, 32)


def test_donated_weights_are_freed_and_the_others_kept(method):
    model = tiny_model()
    w, embed = model.blocks.up.w[...], model.embed[...]
    small = quantize(model, method, donate=True)
    assert w.is_deleted()
    assert not embed.is_deleted()
    jax.tree.map(np.testing.assert_array_equal, small, quantize(tiny_model(), method))


def test_a_loaded_model_says_how_it_was_quantised(tiny_folder, method):
    lm = selfx.load(tiny_folder, quantize=method)
    assert (lm.hash, lm.quantize) == (f"{weights_hash(tiny_folder)}+{method}", method)
    plain = selfx.load(tiny_folder)
    assert (plain.hash, plain.quantize) == (weights_hash(tiny_folder), "")
    jax.tree.map(np.testing.assert_array_equal, lm.model, quantize(plain.model, method))
    assert is_quantized(lm.model)
    assert not is_quantized(plain.model)


def test_adapters_are_not_merged_into_it(pair):
    small, plain = pair
    adapters = lora.init(small.config, rank=2, alpha=4, key=jax.random.key(0))
    for move in (lora.merge, lora.unmerge):
        move(plain, adapters)
        with pytest.raises(SelfxError, match="quantised") as caught:
            move(small, adapters)
        assert "lora=" in caught.value.hint


def test_what_cannot_be_quantised_is_refused(pair):
    from selfx.models.decoder import with_layers

    model = tiny_model()
    odd = dataclasses.replace(TINY, d_ff=33, n_layers=1)
    for bad, how, words in (
        (model, ("int4",), "int8, nf4"),
        (pair[0], ("int8",), "already"),
        (with_layers(model, selfx.apart(model)), ("int8",), "apart"),
        (tiny_model(odd), ("nf4",), "33 inputs"),
    ):
        with pytest.raises(SelfxError, match=words):
            quantize(bad, *how)
    with pytest.raises(SelfxError, match="tile=0"):
        quantize(model, "int8", tile=0)


def test_without_qwix_the_way_to_it_is_named(monkeypatch, tiny_folder):
    monkeypatch.setitem(sys.modules, "qwix", None)
    for run in (
        lambda: quantize(tiny_model(), "int8"),
        lambda: selfx.load(tiny_folder, quantize="nf4"),
    ):
        with pytest.raises(SelfxError, match=r"pip install 'selfx\[qlora\]'"):
            run()
