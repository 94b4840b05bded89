"""What `inspect_sae` measures, against NumPy; and that it notices a wrong place, scale or start."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from selfx.errors import SelfxError
from selfx.features.dictionaries.inspect import inspect_sae
from selfx.features.dictionaries.sae import Origin, Sae, encode, reconstruct
from selfx.features.dictionaries.splice import splice
from selfx.models.decoder import forward
from selfx.testing import tiny_config, tiny_model

CONFIG = tiny_config(post_norm=True)
D, LAYER = CONFIG.d_model, 2


def sandwich():
    """A model whose norm after one layer's MLP lets half of the coordinates through."""
    model = tiny_model(CONFIG, seed=1)
    w = model.blocks.mlp_post_norm.w
    w[...] = w[...].at[LAYER, D // 2 :].set(0.0)
    return model


MODEL = sandwich()


@pytest.fixture(scope="module")
def text():
    """Rows of different lengths, padded on both sides, each beginning with token 3."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, CONFIG.vocab_size, (5, 24))
    mask = np.ones(tokens.shape, bool)
    mask[1, -7:] = mask[3, :4] = False
    tokens[np.arange(5), mask.argmax(axis=1)] = 3
    return tokens, mask


@pytest.fixture(scope="module")
def seen(text):
    tokens, mask = text
    sites = ("resid_post", "mlp_in", "mlp_out", "mlp_out_post", "z")
    captures = forward(MODEL, tokens, mask=mask, capture=sites).captures
    return {site: np.asarray(each[LAYER]) for site, each in captures.items()}


def whole(site="resid_post", width=D, **changes):
    """A dictionary that reconstructs everything: each coordinate, and its negative."""
    eye = np.eye(width, dtype=np.float32)
    both = np.concatenate([eye, -eye])
    bias = np.linspace(-1, 1, width, dtype=np.float32)
    made = {"w_enc": both.T, "b_enc": -both @ bias, "w_dec": both, "b_dec": bias}
    return Sae(**{k: jnp.asarray(v) for k, v in made.items()}, site=site, layer=LAYER, **changes)


def principal(x, counted, count=6, **changes):
    """The directions in which activations vary most, and their negatives: fits one place alone."""
    rows = x.reshape(*counted.shape, -1)[counted]
    mean = rows.mean(axis=0)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:count]
    both = np.concatenate([axes, -axes])
    parts = {"w_enc": both.T, "b_enc": -both @ mean, "w_dec": both, "b_dec": mean}
    parts = {name: jnp.asarray(part, jnp.float32) for name, part in parts.items()}
    return Sae(**parts, **{"site": "mlp_out_post", "layer": LAYER, **changes})


def test_a_dictionary_that_loses_nothing_recovers_the_loss(text):
    found = inspect_sae(whole(), MODEL, *text, batch=2)
    assert found.fvu < 1e-9
    assert found.recovered == pytest.approx(1, abs=1e-5)
    assert found.loss_spliced == pytest.approx(found.loss, abs=1e-5)
    assert abs(found.loss_zeroed - found.loss) > 1e-3
    assert found.l0 == pytest.approx(D)
    assert not found.warnings


def test_numbers_are_numpys(text, seen):
    tokens, mask = text
    counted = mask & (np.cumsum(mask, axis=1) > 1)
    sae = dataclasses.replace(
        principal(seen["resid_post"], counted, count=24, site="resid_post"),
        rule="jumprelu",
        threshold=jnp.full(48, 0.7),
    )
    found = inspect_sae(sae, MODEL, tokens, mask, batch=2)  # the last one is filled up
    x = seen["resid_post"][counted].astype(np.float64)
    pre = x @ np.asarray(sae.w_enc) + np.asarray(sae.b_enc)
    f = np.where(pre > 0.7, pre, 0)
    error = np.square(f @ np.asarray(sae.w_dec) + np.asarray(sae.b_dec) - x)
    assert found.tokens == counted.sum()
    assert found.l0 == pytest.approx((f > 0).sum(axis=1).mean(), rel=1e-6)
    assert found.dead == pytest.approx((~(f > 0).any(axis=0)).mean())
    assert found.mse == pytest.approx(error.mean(), rel=1e-4)
    assert found.fvu == pytest.approx(error.sum() / np.square(x - x.mean(0)).sum(), rel=1e-4)
    first = mask & (np.cumsum(mask, axis=1) == 1)
    starts = seen["resid_post"][first]
    on = starts @ np.asarray(sae.w_enc) + np.asarray(sae.b_enc) > 0.7
    assert found.first_l0 == pytest.approx(on.sum(axis=1).mean(), rel=1e-6)
    ratio = np.linalg.norm(starts, axis=1).mean() / np.linalg.norm(x, axis=1).mean()
    assert found.first_length == pytest.approx(ratio, rel=1e-4)
    logits = forward(MODEL, tokens, mask=mask, edits=splice(sae, first=1)).logits
    nats = -np.asarray(jax.nn.log_softmax(logits))[:, :-1]
    nats = np.take_along_axis(nats, tokens[:, 1:, None], axis=-1)[..., 0]
    predicted = counted[:, :-1] & mask[:, 1:]
    assert found.loss_spliced == pytest.approx(nats[predicted].mean(), rel=1e-5)


def test_a_wrong_site_is_named(text, seen):
    tokens, mask = text
    counted = mask & (np.cumsum(mask, axis=1) > 1)
    sae = principal(seen["mlp_out_post"], counted, count=D // 2, site="mlp_out")
    found = inspect_sae(sae, MODEL, tokens, mask, batch=2)
    assert (found.elsewhere.site, found.elsewhere.layer) == ("mlp_out_post", LAYER)
    assert "'mlp_out_post' of layer 2: it is of another site" in found.warnings[0]
    right = dataclasses.replace(sae, site="mlp_out_post")
    assert not inspect_sae(right, MODEL, tokens, mask, batch=2).warnings


def test_a_wrong_scale_is_named(text, seen):
    tokens, mask = text
    counted = mask & (np.cumsum(mask, axis=1) > 1)
    sae = principal(8 * seen["resid_post"], counted, count=24, site="resid_post")
    sae = dataclasses.replace(sae, rule="jumprelu", threshold=jnp.full(48, 2.0))
    found = inspect_sae(sae, MODEL, tokens, mask, batch=2)
    assert (found.elsewhere.site, found.elsewhere.scale) == ("resid_post", 8)
    assert "activations times 8: its scale is not folded" in found.warnings[0]


def test_what_the_files_say_is_held_against_it(text):
    tokens, mask = text
    origin = Origin("saelens", "a/b", l0=3.0, bos=True)
    found = inspect_sae(whole(origin=origin), MODEL, tokens, mask, batch=2, bos=3)
    assert found.warnings == (f"{D} latents are on, and its files say 3",)
    found = inspect_sae(whole(origin=origin), MODEL, tokens, mask, batch=2, bos=4)
    assert "begin with the token for that, and these do not" in found.warnings[1]
    found = inspect_sae(
        whole(origin=dataclasses.replace(origin, bos=False)), MODEL, tokens, mask, batch=2, bos=3
    )
    assert "these have one" in found.warnings[1]


def test_long_first_tokens_that_count_are_spoken_of(text):
    tokens, mask = text
    model = sandwich()
    model.embed[...] = model.embed[...].at[3].multiply(1e4)
    assert not inspect_sae(whole(), model, tokens, mask, batch=2, first=1).warnings
    found = inspect_sae(whole(), model, tokens, mask, batch=2, first=0)
    assert found.first_length > 10
    assert "they decide every sum" in found.warnings[-1]


def test_a_transcoder_is_measured_where_it_writes(text, seen):
    tokens, mask = text
    counted = mask & (np.cumsum(mask, axis=1) > 1)
    sae = whole("mlp_in", out_site="mlp_out_post")
    found = inspect_sae(sae, MODEL, tokens, mask, batch=2)
    x, y = (seen[site][counted].astype(np.float64) for site in ("mlp_in", "mlp_out_post"))
    assert found.fvu == pytest.approx(np.square(x - y).sum() / np.square(y - y.mean(0)).sum(), 1e-4)
    assert found.target == "mlp_out_post"
    with pytest.raises(SelfxError, match="a transcoder"):
        splice(sae)


def test_splicing_leaves_other_layers_and_first_tokens_alone(text, seen):
    tokens, mask = text
    sae = principal(seen["z"], mask, count=3, site="z")
    out = forward(MODEL, tokens, mask=mask, edits=splice(sae, first=1), capture=("z",)).captures
    plain = forward(MODEL, tokens, mask=mask, capture=("z",)).captures["z"]
    counted = mask & (np.cumsum(mask, axis=1) > 1)
    spliced = np.asarray(out["z"])
    assert (spliced[:LAYER] == plain[:LAYER]).all()
    assert (spliced[LAYER][~counted & mask] == plain[LAYER][~counted & mask]).all()
    wanted = reconstruct(sae, seen["z"].reshape(*mask.shape, -1))[counted]
    np.testing.assert_allclose(spliced[LAYER][counted].reshape(-1, D), wanted, atol=1e-5)


def test_latents_agree_under_vmap(seen):
    sae = whole("z")
    rows = seen["z"].reshape(-1, D)
    each = jax.vmap(lambda x: encode(sae, x))(rows)
    np.testing.assert_allclose(each, encode(sae, rows), atol=1e-6)


def test_another_width_or_layer_is_refused(text):
    with pytest.raises(SelfxError, match="width 16 for 'resid_post'"):
        inspect_sae(whole(width=16), MODEL, *text)
    with pytest.raises(SelfxError, match="layer 9"):
        inspect_sae(dataclasses.replace(whole(), layer=9), MODEL, *text)
    with pytest.raises(SelfxError, match="texts with something to predict"):
        inspect_sae(whole(), MODEL, text[0][:, :2])
    with pytest.raises(SelfxError, match="texts with something to predict"):
        inspect_sae(whole(), MODEL, np.zeros((0, 8), int))


def test_the_report_prints_and_serialises(text):
    origin = Origin("saelens", "a/b", l0=3.0)
    found = inspect_sae(whole(origin=origin, folds=("a step",)), MODEL, *text, batch=2)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(found)
    shown = console.export_text()
    for words in (
        "latents on",
        "loss recovered",
        "declared",
        "fold: a step",
        "WARNING: 32 latents",
    ):
        assert words in shown
    assert json.loads(json.dumps(found.to_json()))["l0"] == found.l0
