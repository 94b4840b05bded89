"""Against Hugging Face's Llama in torch, where that is installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.models import cache as caches
from selfx.models.config import RopeScaling
from selfx.models.decoder import forward
from selfx.models.generate import generate
from selfx.models.zoo import config_from_hf
from selfx.testing import tiny_config, tiny_model

pytestmark = pytest.mark.reference
TOLERANCE = 5e-5
ORIGINAL = 16

ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 0.05,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn": {
        "factor": 4.0,
        "beta_fast": 2.0,
        "beta_slow": 0.05,
        "original_max_position_embeddings": ORIGINAL,
    },
}
SHAPES = {
    **{name: tiny_config(d_head=16) for name in ROPES},
    "tied": tiny_config(tied=True, n_kv_heads=4),
    "biases": tiny_config(attention_bias=True, output_bias=True, mlp_bias=True, n_kv_heads=1),
}


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
        config = SHAPES[shape]
        rope = ROPES.get(shape, {})
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
            attention_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
            rope_parameters={
                "rope_type": shape if shape in ROPES else "default",
                "rope_theta": config.ropes[0].theta,
                **rope,
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


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_residuals(pair, torch, tokens, shape):
    model, theirs = pair(shape)
    seen = []
    for layer in theirs.model.layers:  # its last hidden state would be after the final norm
        layer.register_forward_hook(lambda _, __, out: seen.append(out))
    want = logits_of(theirs, torch, tokens).logits
    got = run(model, tokens, capture=("resid_post",))
    assert_close(got.logits, want)
    for layer, residual in enumerate(seen):
        assert_close(got.captures["resid_post"][layer], residual)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", ["default", "llama3"])
def test_padded(pair, torch, tokens, shape, side):
    model, theirs = pair(shape)
    mask = np.ones(tokens.shape, bool)
    mask[0, : 5 if side == "left" else 0] = False
    mask[0, 24 if side == "left" else 19 :] = False
    want = logits_of(theirs, torch, tokens, mask).logits.numpy()
    assert_close(run(model, tokens, mask).logits[mask], want[mask])


@pytest.mark.parametrize("shape", ROPES)
def test_cached(pair, torch, tokens, shape):
    """Twenty tokens at once, then one by one, the `dynamic` ones each turned at its own length."""
    model, theirs = pair(shape)
    row, past = tokens[:1], None
    cache = caches.empty(model.config, 1, 24, jnp.float32)
    for start, stop in ((0, 20), (20, 21), (21, 22), (22, 23)):
        out = run(model, row[:, start:stop], cache=cache)
        with torch.no_grad():
            want = theirs(
                torch.from_numpy(row[:, start:stop]),
                position_ids=torch.arange(start, stop)[None],
                past_key_values=past,
                use_cache=True,
            )
        cache, past = out.cache, want.past_key_values
        assert_close(out.logits, want.logits)


@pytest.mark.parametrize("shape", ["default", "dynamic"])
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


def test_the_scaling_is_read_as_declared(pair):
    """So that the comparisons above compare five different rotary embeddings."""
    kinds = [pair(name)[0].config.ropes[0].scaling for name in ROPES]
    assert kinds[0] is None
    assert [scaling.kind for scaling in kinds[1:]] == list(ROPES)[1:]
    assert all(isinstance(scaling, RopeScaling) for scaling in kinds[1:])


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
