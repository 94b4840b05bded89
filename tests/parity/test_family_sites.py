"""What holds between the sites of a layer in every family, computed anew from captures in float64.

The sums and products are written here from the definitions of the sites; they read nothing of the
decoder but its weights and what it captured.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.interventions.build import steer
from selfx.models.decoder import forward, read_out
from selfx.models.sites import SITES, sites_of
from selfx.sharding import make_mesh, shard, shard_batch

TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(9).integers(1, 60, (8, 11))


@functools.partial(jax.jit, static_argnames="sites")
def captured(model, tokens, sites):
    out = forward(model, tokens, capture=sites)
    return out.captures, read_out(model, out.captures["resid_post"][-1])


def float64(captures):
    return {site: np.asarray(x, np.float64) for site, x in captures.items()}


def weight(part, layer):
    return np.asarray(part[...], np.float64)[layer]


def linear(part, layer, x):
    y = x @ weight(part.w, layer)
    return y if part.b is None else y + weight(part.b, layer)


def mixed(probs, value):
    """`probs` `[b, t, h, s]` over `value` `[b, s, k, e]`, one head after the other."""
    heads, groups = probs.shape[2], value.shape[2]
    each = [probs[:, :, h] @ value[:, :, h // (heads // groups)] for h in range(heads)]
    return np.stack(each, axis=2)


def off(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


def worst_identities(model, at):
    """`{identity: how far off it is, at the worst layer}`."""
    config, blocks = model.config, model.blocks
    found = {
        "resid_pre + attn_out_post = resid_mid": off(
            at["resid_pre"] + at["attn_out_post"], at["resid_mid"]
        ),
        "resid_pre + attn_out_post + mlp_out_post = resid_post": off(
            at["resid_pre"] + at["attn_out_post"] + at["mlp_out_post"], at["resid_post"]
        ),
        "embeddings = resid_pre": off(at["embeddings"], at["resid_pre"][0]),
        "resid_post = resid_pre": off(at["resid_post"][:-1], at["resid_pre"][1:]),
        "attn_probs sum to 1": off(at["attn_probs"].sum(axis=-1), np.ones(1)),
    }
    for layer in range(config.n_layers):
        here = {site: x[layer] for site, x in at.items() if SITES.get(site, SITES["z"]).layered}
        z = here["z"].reshape(*here["z"].shape[:2], -1)
        each = {
            "attn_probs @ value = z": off(mixed(here["attn_probs"], here["value"]), here["z"]),
            "o(z) = attn_out": off(linear(blocks.o, layer, z), here["attn_out"]),
            "v(attn_in) = value": off(
                linear(blocks.v, layer, here["attn_in"]).reshape(here["value"].shape), here["value"]
            ),
        }
        if config.experts is None:
            each["down(mlp_act) = mlp_out"] = off(
                linear(blocks.down, layer, here["mlp_act"]), here["mlp_out"]
            )
        for name, worst in each.items():
            found[name] = max(found.get(name, 0), worst)
    return found


def unembedded(model, at):
    """Logits from the last residual, normed and capped."""
    config, x = model.config, at["resid_post"][-1]
    if config.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_eps)
    x = x * (np.asarray(model.final_norm.w[...], np.float64) + (config.norm == "rms_plus_one"))
    if config.norm == "layer":
        x = x + np.asarray(model.final_norm.b[...], np.float64)
    table = model.embed[...].T if config.tied else model.unembed.w[...]
    y = x @ np.asarray(table, np.float64)
    return y if config.logit_cap is None else config.logit_cap * np.tanh(y / config.logit_cap)


def test_identities(model, one_a_family, tokens):
    one = model(one_a_family)
    sites = tuple(sites_of(one.config))
    captures, read = captured(one, tokens, sites)
    at = float64(captures)
    for name, worst in worst_identities(one, at).items():
        assert worst <= TOLERANCE, f"{name}: off by {worst:.1e}"
    assert off(unembedded(one, at), at["logits"]) <= TOLERANCE
    assert off(np.asarray(read), at["logits"]) <= TOLERANCE
    if not one.config.post_norm:
        assert off(at["attn_out"], at["attn_out_post"]) == 0
    else:
        assert off(at["attn_out"], at["attn_out_post"]) > 0.01


@pytest.mark.parametrize("case", ["gpt_neox-parallel", "phi3-longrope"])
@pytest.mark.parametrize("site", ["value", "z", "attn_probs", "mlp_act"])
def test_a_wrong_layout_fails(model, case, site, tokens):
    """Heads in another order, or neurons, are noticed."""
    one = model(case)
    at = float64(captured(one, tokens, tuple(sites_of(one.config)))[0])
    axis = 2 if site == "mlp_act" else 3
    assert max(worst_identities(one, at).values()) <= TOLERANCE
    at[site] = np.roll(at[site], 1, axis=axis)
    assert max(worst_identities(one, at).values()) > 0.1


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=4, model=2)


def test_transforms_agree(model, family_apart, tokens, mesh):
    """vmap, pmap, remat, a mesh of 4 x 2 devices and fused attention give what jit gives."""
    one = model(family_apart)
    width = one.config.d_model
    vectors = np.random.default_rng(3).standard_normal((8, width)).astype(np.float32)

    def logits(model, tokens, vectors, **how):
        edits = steer("resid_post", vectors, layers=1, positions=3)
        return forward(model, tokens, edits=edits, **how).logits

    def loss(vectors, model, tokens, remat=False):
        picked = jnp.take_along_axis(
            logits(model, tokens, vectors, remat=remat), tokens[..., None], 2
        )
        return picked.mean()

    want = jax.jit(logits)(one, tokens, vectors)
    rows = (tokens[:, None], vectors[:, None])
    mapped = jax.jit(jax.vmap(logits, in_axes=(None, 0, 0)))(one, *rows)[:, 0]
    spread = jax.pmap(logits, in_axes=(None, 0, 0))(one, *rows)[:, 0]
    shared = jax.jit(logits)(shard(one, mesh), *shard_batch((tokens, vectors), mesh))
    fused = (
        jax.jit(functools.partial(logits, fused=True))(one, tokens, vectors)
        if one.config.score_cap is None
        else want
    )
    for name, got in {"vmap": mapped, "pmap": spread, "mesh": shared, "fused": fused}.items():
        assert off(np.asarray(got), np.asarray(want)) <= TOLERANCE, name
    gradient = jax.jit(jax.grad(loss), static_argnames="remat")
    plain, again = (np.asarray(gradient(vectors, one, tokens, remat=r)) for r in (False, True))
    assert np.abs(plain).max() > 0
    assert off(again, plain) <= TOLERANCE
    step = 1e-2 / math.sqrt(width) * plain / np.linalg.norm(plain)
    ends = [float(loss(jnp.asarray(vectors + sign * step), one, tokens)) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * np.linalg.norm(step))
    assert slope == pytest.approx(np.linalg.norm(plain), rel=0.2)


def test_scores_ask_for_unfused_attention_and_say_so(model, tokens):
    one = model("llama-llama3")
    with pytest.warns(UserWarning, match="attn_probs are asked for"):
        jax.eval_shape(lambda: forward(one, tokens, capture=("attn_probs",), fused=True))
    with pytest.warns(UserWarning, match="caps its scores"):
        jax.eval_shape(lambda: forward(model("gemma2-alternating"), tokens, fused=True))
