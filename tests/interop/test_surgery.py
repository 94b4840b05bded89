"""Penzai's surgery on an exported model, and our edits on the model itself: the same logits.

On the one side a layer is put into a tree and its own code runs; on the other a forward pass that
stays as it is gets an argument. They share the weights and nothing else.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import selfx
from selfx.testing import tiny_config, tiny_model

pz = pytest.importorskip("penzai.pz")
model_parts = pytest.importorskip("penzai.models.transformer.model_parts")
save_intermediates = pytest.importorskip("penzai.toolshed.save_intermediates")
interop = pytest.importorskip("selfx.interop.penzai")


LAYER, HEAD, POSITION = 1, 3, 4
N_LAYERS = 3


@pz.pytree_dataclass
class Write(pz.nn.Layer):
    """Puts `content` where `where` points, by the names of axes; `content` None is zero."""

    where: Any
    content: Any = None

    def __call__(self, value, **_):
        content = jnp.zeros(()) if self.content is None else self.content
        return value.at[self.where].set(content)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_config(n_layers=N_LAYERS))


@pytest.fixture(scope="module")
def theirs(model):
    return interop.to_penzai(model)


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(2).integers(6, 262, (2, 9)))


def at_layer(theirs, kind, layer=LAYER):
    """The selection of one layer's part of a kind that every layer has once."""
    return (
        pz.select(theirs).at_instances_of(kind).assert_count_is(N_LAYERS).pick_nth_selected(layer)
    )


def named(array, *names):
    return pz.nx.wrap(jnp.asarray(array)).tag(*names)


@pz.variable_jit
def run(theirs, tokens):
    """Penzai's logits `[b, t, v]`."""
    return theirs(pz.nx.wrap(tokens).tag("batch", "seq")).unwrap("batch", "seq", "vocabulary")


@jax.jit
def edited(model, tokens, edits):
    return selfx.forward(model, tokens, edits=edits).logits


def assert_same_change(model, theirs, changed, tokens, edits):
    """Both are changed, by far more than they differ."""
    want, got = run(changed, tokens), edited(model, tokens, edits)
    scale = np.abs(want).max()
    assert np.abs(want - run(theirs, tokens)).max() > 0.01 * scale
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * scale)


def test_a_head_zeroed(model, theirs, tokens):
    """`ablate` at `z` is a layer after the product of attention weights and values."""
    groups, heads = model.config.n_kv_heads, model.config.n_heads
    group, member = divmod(HEAD, heads // groups)
    mixing = at_layer(theirs, pz.nn.Attention).at(lambda a: a.attn_value_to_output.sublayers[0])
    changed = mixing.insert_after(Write({"head_groups": group, "query_heads": member}))
    edits = selfx.ablate("z", layers=LAYER, part=jnp.arange(heads)[:, None] == HEAD)
    assert_same_change(model, theirs, changed, tokens, edits)


def test_an_mlp_halved(model, theirs, tokens):
    """Penzai's `ConstantRescale` after an MLP, and an edit of one's own at `mlp_out`."""
    mlp = at_layer(theirs, model_parts.TransformerFeedForward)
    changed = mlp.insert_after(pz.nn.ConstantRescale(by=0.5))
    assert_same_change(model, theirs, changed, tokens, {"mlp_out": (Halve(),)})


class Halve:
    """Half of what a site carries, in one layer."""

    def __call__(self, x, at):
        return jnp.where(at.layer == LAYER, x / 2, x)


jax.tree_util.register_static(Halve)


def test_an_attention_steered(model, theirs, tokens):
    """`steer` at `attn_out` is a bias that Penzai adds after the attention."""
    vector = np.random.default_rng(3).standard_normal(model.config.d_model).astype(np.float32)
    bias = pz.Parameter(value=named(vector, "embedding"), label="steering")
    added = pz.nn.AddBias(bias=bias, new_axis_names=())
    changed = at_layer(theirs, pz.nn.Attention).insert_after(added)
    edits = selfx.steer("attn_out", vector, layers=LAYER)
    assert_same_change(model, theirs, changed, tokens, edits)


def test_attention_weights_replaced(model, theirs, tokens):
    """Every token of one layer looks at the first alone: `patch` at `attn_probs`."""
    first = jnp.zeros(tokens.shape[1]).at[0].set(1.0)
    bias = pz.Parameter(value=named(first, "kv_seq"), label="first")
    written = [pz.nn.ConstantRescale(by=0.0), pz.nn.AddBias(bias=bias, new_axis_names=())]
    changed = at_layer(theirs, pz.nn.Softmax).insert_after(pz.nn.Sequential(written))
    edits = selfx.patch("attn_probs", first[None], layers=LAYER)
    assert_same_change(model, theirs, changed, tokens, edits)


def test_an_activation_patched(model, theirs, tokens):
    """The residual of another text, read by either's own means, put into a later layer.

    Each row gets the other's.
    """
    block = at_layer(theirs, model_parts.TransformerBlock, 0)
    saver = save_intermediates.SaveIntermediate()
    run(block.insert_after(saver), tokens[::-1])
    source = saver.saved.value[{"seq": 6}]
    block = at_layer(theirs, model_parts.TransformerBlock)
    changed = block.insert_after(Write({"seq": POSITION}, source))
    captured = selfx.forward(model, tokens, capture={"resid_post": selfx.At(layers=(0,))})
    vectors = captured.captures["resid_post"][0, ::-1, 6]
    edits = selfx.patch("resid_post", vectors, layers=LAYER, positions=POSITION)
    assert_same_change(model, theirs, changed, tokens, edits)


def test_captures_are_what_penzai_sees(model, theirs, tokens):
    """By name: the residual after every layer, and the attention weights of every head."""
    kinds = {"resid_post": model_parts.TransformerBlock, "attn_probs": pz.nn.Softmax}
    savers = {}
    for site, kind in kinds.items():
        for layer in range(N_LAYERS):
            savers[site, layer] = save_intermediates.SaveIntermediate()
            theirs = at_layer(theirs, kind, layer).insert_after(savers[site, layer])
    run(theirs, tokens)
    output = jax.jit(lambda model, x: selfx.forward(model, x, capture=tuple(kinds)))(model, tokens)
    ours = interop.captures_to_named(output.captures)
    for (site, layer), saver in savers.items():
        seen = saver.saved.value
        if site == "attn_probs":  # Penzai has two axes for the heads
            seen = seen.untag("head_groups", "query_heads").reshape(-1).tag("query head")
        seen = renamed(seen, seq="target position", embedding="residual width")
        got, want = ours[site][{"layer": layer}], renamed(seen, kv_seq="source position")
        assert dict(got.named_shape) == dict(want.named_shape)
        got, want = (x.unwrap(*got.named_shape) for x in (got, want))
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * np.abs(want).max())


def renamed(array, **names):
    """The array with some of its axes under other names."""
    names = {old: new for old, new in names.items() if old in array.named_shape}
    return array.untag(*names).tag(*names.values())
