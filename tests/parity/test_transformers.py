"""Against Hugging Face's Llama in torch, where that is installed: what is written, a real model."""

import functools

import jax
import numpy as np
import pytest

from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.models.zoo import config_from_hf
from selfx.testing import tiny_config, tiny_model

pytestmark = pytest.mark.reference
TOLERANCE = 5e-5
ORIGINAL = 16

ROPES = {"default": {}, "dynamic": {"factor": 4.0}}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(3).integers(6, 262, (2, 24))


@pytest.fixture(scope="module")
def pair(torch, hf_state):
    """A function: our random model, and a new torch model with its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(shape):
        config = tiny_config(d_head=16)
        declared = LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.d_head,
            max_position_embeddings=ORIGINAL if shape == "dynamic" else 64,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tied,
            rope_parameters={
                "rope_type": shape,
                "rope_theta": config.ropes[0].theta,
                **ROPES[shape],
            },
        )
        model = tiny_model(config_from_hf(declared.to_dict()))
        theirs = LlamaForCausalLM(declared).eval()
        theirs.load_state_dict({k: torch.from_numpy(v) for k, v in hf_state(model).items()})
        return model, theirs

    return build


@functools.partial(jax.jit, static_argnames="capture")
def run(model, tokens, mask=None, cache=None, capture=()):
    return forward(model, tokens, mask=mask, cache=cache, capture=capture)


def logits_of(theirs, torch, tokens, mask=None, **more):
    mask = np.ones(tokens.shape, bool) if mask is None else mask
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    with torch.no_grad():
        return theirs(
            torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            position_ids=torch.from_numpy(positions),
            **more,
        )


def assert_close(got, want):
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


@pytest.mark.parametrize("shape", ROPES)
def test_greedy_continuation(pair, torch, tokens, shape):
    model, theirs = pair(shape)
    prompt = torch.from_numpy(tokens[:1, :12])
    want = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    got = generate(model, tokens[:1, :12], max_new_tokens=10)
    assert got.tokens[0].tolist() == want[0, 12:].tolist()


@pytest.mark.model
def test_smollm2(smollm2, torch, hf_state):
    """Logits and the residual of every layer of a real model, and twenty greedy tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = smollm2.config
    declared = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied,
        rope_parameters={"rope_type": "default", "rope_theta": config.ropes[0].theta},
    )
    theirs = LlamaForCausalLM(declared).eval()
    weights = {name: torch.from_numpy(x) for name, x in hf_state(smollm2.model).items()}
    theirs.load_state_dict(weights)
    text = "The capital of France is Paris. The capital of Japan is"
    tokens = np.asarray([smollm2.tokenizer.encode(text)])
    handles, seen = [], []
    for layer in theirs.model.layers:
        handles.append(layer.register_forward_hook(lambda _, __, out: seen.append(out)))
    want = logits_of(theirs, torch, tokens).logits
    for handle in handles:
        handle.remove()
    got = run(smollm2.model, tokens, capture=("resid_post",))
    assert_close(got.logits, want)
    for layer, residual in enumerate(seen):
        assert_close(got.captures["resid_post"][layer], residual)
    ids = torch.from_numpy(tokens)
    longer = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    ours = generate(smollm2.model, tokens, max_new_tokens=20)
    assert ours.tokens[0].tolist() == longer[0, tokens.shape[1] :].tolist()
