"""Captures under the names of their axes."""

import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.models import sites
from selfx.models.decoder import forward
from selfx.models.sites import SITES

treescope = pytest.importorskip("treescope")
pz = pytest.importorskip("penzai.pz")
named = pytest.importorskip("selfx.interop.named")


@pytest.fixture(scope="module")
def captures(tiny):
    tokens = np.random.default_rng(0).integers(6, 262, (2, 5))
    return forward(tiny, tokens, capture=tuple(SITES)).captures


def test_every_site_has_named_axes_over_the_same_buffer(tiny, captures):
    """Sizes are those of the model, and nothing is copied."""
    config = tiny.config
    sizes = {
        "layer": config.n_layers,
        "batch": 2,
        "target position": 5,
        "source position": 5,
        "residual width": config.d_model,
        "query head": config.n_heads,
        "key/value head": config.n_kv_heads,
        "head width": config.d_head,
        "MLP width": config.d_ff,
        "vocabulary": config.vocab_size,
    }
    arrays = named.captures_to_named(captures)
    assert set(arrays) == set(SITES)
    for site, array in arrays.items():
        names = [named.AXES[letter] for letter in SITES[site].axes]
        layer = ["layer"] if SITES[site].layered else []
        wanted = [*layer, "batch", "target position", *names]
        assert list(array.named_shape) == wanted, site
        assert array.unwrap(*wanted) is captures[site], site
        assert dict(array.named_shape) == {name: sizes[name] for name in wanted}, site


def test_names_are_the_glossarys_own():
    """Every letter of the sites' axes, spelled as the glossary spells it."""
    text = " ".join(sites.__doc__.split())
    for letter, name in named.AXES.items():
        assert f"`{letter}` {name}" in text
    assert set("".join(site.axes for site in SITES.values())) | set("lbt") == set(named.AXES)


def test_axes_by_name_mean_what_they_mean_by_number(captures):
    array = named.captures_to_named(captures)["attn_probs"]
    one = array[{"layer": 1, "batch": 0, "query head": 2, "target position": 4}]
    np.testing.assert_array_equal(one.unwrap("source position"), captures["attn_probs"][1, 0, 4, 2])


def test_treescope_shows_the_axes(captures):
    """In words and, where figures are asked for, drawn."""
    arrays = named.captures_to_named({site: captures[site] for site in ("attn_probs", "mlp_act")})
    plain = treescope.render_to_html(arrays, compressed=False)
    for words in (
        "attn_probs",
        "layer:4, batch:2, target position:5, query head:4, source position:5",
        "mlp_act",
        "layer:4, batch:2, target position:5, MLP width:64",
    ):
        assert words in plain
    with treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer()):
        drawn = treescope.render_to_html(arrays, compressed=False)
    assert "arrayviz" in drawn
    assert "arrayviz" not in plain


def test_other_shapes_and_sites_raise():
    with pytest.raises(SelfxError, match="expected: axes \\[l, b, t, d\\]"):
        named.captures_to_named({"resid_post": jnp.zeros((2, 5, 32))})
    with pytest.raises(SelfxError, match="did you mean 'resid_post'"):
        named.captures_to_named({"resid_pots": jnp.zeros((4, 2, 5, 32))})
