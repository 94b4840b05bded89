"""Against penzai's decoder, an implementation that others wrote."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from selfx.models.decoder import forward
from selfx.testing import tiny_config, tiny_model

pz = pytest.importorskip("penzai.pz")
llamalike = pytest.importorskip("penzai.models.transformer.variants.llamalike_common")


def test_logits(hf_state):
    config = tiny_config(n_layers=2)
    model = tiny_model(config)
    tokens = np.random.default_rng(1).integers(6, 262, (2, 11))
    shim = types.SimpleNamespace(
        config=types.SimpleNamespace(
            num_key_value_heads=config.n_kv_heads,
            num_attention_heads=config.n_heads,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            vocab_size=config.vocab_size,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.norm_eps,
        ),
        dtype="torch.float32",
        state_dict=lambda: {name: jnp.asarray(x) for name, x in hf_state(model).items()},
    )
    theirs = llamalike.llamalike_from_huggingface_model(shim)
    named = pz.nx.wrap(jnp.asarray(tokens)).tag("batch", "seq")
    positions = pz.nx.arange("seq", tokens.shape[1])
    want = theirs(named, token_positions=positions).unwrap("batch", "seq", "vocabulary")
    got = forward(model, tokens).logits
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-5 * np.abs(want).max())
