"""Hook names of other tools are the sites they mean; a norm's weight is made up for."""

from pathlib import Path

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.places import Place, hook_of, place_of, width_of
from selfx.features.dictionaries.sae import encode, reconstruct
from selfx.models.decoder import forward
from selfx.testing import TINY, tiny_config, tiny_model

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("hook", "site", "layer"),
    [
        ("blocks.8.hook_resid_pre", "resid_pre", 8),
        ("blocks.8.hook_resid_mid", "resid_mid", 8),
        ("blocks.8.hook_resid_post", "resid_post", 8),
        ("blocks.11.attn.hook_z", "z", 11),
        ("blocks.0.mlp.hook_post", "mlp_act", 0),
        ("blocks.3.hook_out", "resid_post", 3),
        ("blocks.3.mlp.hook_in", "mlp_in", 3),
        ("hook_embed", "embeddings", 0),
        ("layers.5", "resid_post", 5),
        ("model.layers.5.output", "resid_post", 5),
        ("gpt_neox.layers.5", "resid_post", 5),
        ("transformer.h.5.mlp", "mlp_out", 5),
        ("model.language_model.layers.5.self_attn", "attn_out", 5),
        ("model.layers.5.self_attn.o_proj.input", "z", 5),
        ("model.layers.5.pre_feedforward_layernorm.output", "mlp_in", 5),
        ("model.embed_tokens", "embeddings", 0),
    ],
)
def test_hooks_are_sites(hook, site, layer):
    assert place_of(hook) == Place(site, layer)


def test_an_output_after_its_norm_is_told_from_the_output_itself():
    """What TransformerLens's block hooks see is what is added to the residual."""
    for half in ("attn", "mlp"):
        assert place_of(f"blocks.2.hook_{half}_out").site == f"{half}_out_post"
        assert place_of(f"blocks.2.{half}.hook_out").site == f"{half}_out"
    assert place_of("layers.2.post_feedforward_layernorm.output").site == "mlp_out_post"
    assert place_of("layers.2.mlp").site == "mlp_out"


def test_a_norm_before_its_weight_is_told_from_the_norm():
    assert place_of("blocks.2.ln2.hook_normalized") == Place("mlp_in", 2, bare=True)
    assert place_of("blocks.2.ln1.hook_normalized") == Place("attn_in", 2, bare=True)
    assert not place_of("blocks.2.mlp.hook_in").bare


@pytest.mark.parametrize("hook", ["blocks.2.hook_mlp_in", "blocks.2.ln3", "layers.x", "", "mlp"])
def test_what_is_unknown_or_ambiguous_raises(hook):
    with pytest.raises(SelfxError, match="the hook") as raised:
        place_of(hook)
    assert "site=" in raised.value.hint


def test_hooks_of_sites_lead_back():
    sites = "resid_pre resid_mid resid_post z attn_in attn_out attn_out_post mlp_in mlp_act"
    for site in [*sites.split(), "mlp_out", "mlp_out_post", "embeddings"]:
        layer = 0 if site == "embeddings" else 4
        assert place_of(hook_of(site, layer)) == Place(site, layer)
    with pytest.raises(SelfxError, match="no name in TransformerLens"):
        hook_of("logits", 0)


def test_widths_have_heads_side_by_side():
    assert width_of("z", TINY) == TINY.n_heads * TINY.d_head
    assert width_of("mlp_act", TINY) == TINY.d_ff


@pytest.mark.parametrize("norm", ["rms", "rms_plus_one", "layer"])
@pytest.mark.parametrize("case", ["gemma_scope_transcoder", "llama_scope_transcoder"])
def test_a_dictionary_of_the_norm_before_its_weight_reads_the_models_own_site(norm, case):
    """What it gives for `mlp_in` is what it was trained to give for the bare normed residual."""
    sizes = {"d_model": 12, "n_layers": 16, "d_ff": 8, "n_heads": 3, "d_head": 4, "n_kv_heads": 3}
    config = tiny_config(norm=norm, **sizes)
    model = tiny_model(config)
    layer = {"gemma_scope_transcoder": 2, "llama_scope_transcoder": 15}[case]
    tokens = np.arange(8).reshape(1, 8) + 6
    seen = forward(model, tokens, capture=("mlp_in", "resid_mid")).captures
    x, residual = (np.asarray(seen[site][layer, 0], np.float64) for site in ("mlp_in", "resid_mid"))
    if norm == "layer":
        residual = residual - residual.mean(axis=-1, keepdims=True)
    bare = residual / np.sqrt(np.square(residual).mean(-1, keepdims=True) + config.norm_eps)
    trained = load_sae(GOLDEN / case, site="mlp_in", layer=layer, out_site="mlp_out_post")
    sae = load_sae(GOLDEN / case, model=model)
    assert (sae.site, sae.layer, sae.out_site) == ("mlp_in", layer, "mlp_out_post")
    bare = bare.astype(np.float32)
    np.testing.assert_allclose(encode(sae, x), encode(trained, bare), atol=2e-4)
    np.testing.assert_allclose(reconstruct(sae, x), reconstruct(trained, bare), atol=2e-4)
    assert not sae.origin.bare


def test_a_dictionary_of_the_norm_before_its_weight_wants_the_model():
    with pytest.raises(SelfxError, match="before the norm's weight") as raised:
        load_sae(GOLDEN / "gemma_scope_transcoder")
    assert "model=" in raised.value.hint


def test_a_model_of_another_width_is_refused():
    with pytest.raises(SelfxError, match="width 12 for 'resid_post' of a model where it is 32"):
        load_sae(GOLDEN / "saelens_topk", model=tiny_model())
