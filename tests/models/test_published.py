"""Full-size models of every family by their published configs: counts and shapes, no weights."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from selfx.models.decoder import Decoder, forward
from selfx.models.parameters import parameter_count
from selfx.models.sites import sites_of
from selfx.models.zoo import FAMILIES, config_from_hf

FILES = sorted((Path(__file__).parent / "published").glob("*.json"), key=lambda file: file.stem)
BATCH, LENGTH = 2, 128


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def published(request):
    return json.loads(request.param.read_text())


def test_parameters_are_as_many_as_published(published):
    """Where none are published, as many as the source says that arithmetic gives."""
    count = parameter_count(config_from_hf(published["config"]))
    if published["parameters"] is None:
        assert str(count) in re.findall(r"\d+", published["source"])
        return
    assert count == published["parameters"]


def test_a_forward_pass_has_the_shapes_of_the_full_size(published):
    """Logits, and captures of every site, for bfloat16 weights that are never allocated."""
    config = config_from_hf(published["config"])
    declared = published["config"].get("text_config", published["config"])
    model = jax.eval_shape(lambda key: Decoder(config, key, jnp.bfloat16), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    sites = sites_of(config)
    out = jax.eval_shape(lambda m, t: forward(m, t, capture=tuple(sites)), model, tokens)
    vocabulary = declared.get("vocab_size", config.vocab_size)
    assert out.logits == jax.ShapeDtypeStruct((BATCH, LENGTH, vocabulary), jnp.float32)
    width = declared.get("hidden_size", declared.get("n_embd"))
    layers = declared.get("num_hidden_layers", declared.get("n_layer"))
    heads = declared.get("num_attention_heads", declared.get("n_head"))
    assert out.captures["resid_post"].shape == (layers, BATCH, LENGTH, width)
    assert out.captures["resid_post"].dtype == jnp.bfloat16
    if heads is not None:
        assert out.captures["attn_probs"].shape == (layers, BATCH, LENGTH, heads, LENGTH)
    assert out.captures.keys() == sites.keys()


def test_every_family_has_a_full_size_model_or_a_reason():
    """The others are those whose published config is nowhere to be had."""
    families = {config_from_hf(json.loads(file.read_text())["config"]).family for file in FILES}
    assert set(FAMILIES) - families == {"ministral", "olmo3"}
