"""Against Penzai's decoders, an implementation that others wrote, for every family that they know.

What stands between is tested apart: that Penzai's own reading of a checkpoint gives the weights
that `to_penzai` gives, and that its logits are those that torch gave.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.models.decoder import Decoder, forward
from selfx.models.zoo import config_from_hf
from selfx.testing import tiny_config, tiny_model
from selfx.weights.safetensors import folder_config, folder_weights

pz = pytest.importorskip("penzai.pz")
llamalike = pytest.importorskip("penzai.models.transformer.variants.llamalike_common")
interop = pytest.importorskip("selfx.interop.penzai")

TOLERANCE = 5e-5
PADS = 3
REFUSED = {
    "gemma3": "normed queries and keys",
    "gpt2": "learned positions",
    "gpt_neox-sequential": "its MLP after the attention",
    "gpt_neox-unbiased": "maps that add no bias",
    "llama-biases": "biases beside RMSNorm",
    "llama-dynamic": "stretched rotary positions",
    "llama-linear": "stretched rotary positions",
    "llama-llama3": "stretched rotary positions",
    "llama-mqa": "gelu in its MLP",
    "llama-yarn": "stretched rotary positions",
    "mimo": "biases beside RMSNorm",
    "olmo2": "layers that read the residual without a norm",
    "olmo3": "layers that read the residual without a norm",
    "phi3-longrope": "stretched rotary positions",
    "phi3-partial": "part of each head turned",
    "qwen2": "biases beside RMSNorm",
    "qwen3": "normed queries and keys",
    "qwen3_moe": "a mixture of experts",
    "smollm3": "layers without rotary positions",
}
"""`{how a golden case begins: why Penzai cannot compute it}`; all the others it can."""


def reason(case):
    longest = max((start for start in REFUSED if case.startswith(start)), key=len, default=None)
    return REFUSED.get(longest)


def logits(theirs, tokens, mask):
    """What Penzai's model returns `[b, t, v]`; positions count real tokens."""
    positions = jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, -1)
    named = [pz.nx.wrap(jnp.asarray(x)).tag("batch", "seq") for x in (tokens, positions)]
    return theirs(named[0], token_positions=named[1]).unwrap("batch", "seq", "vocabulary")


@jax.jit
def both(model, tokens, mask):
    """Logits of the same weights from Penzai's code and from ours."""
    return logits(interop.to_penzai(model), tokens, mask), forward(model, tokens, mask=mask).logits


def assert_close(got, want, what):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, what
    worst = np.abs(got - want).max() / np.abs(want).max()
    assert worst <= TOLERANCE, f"{what}: off by {worst:.1e} of its scale"


def load(golden, case, tmp_path):
    folder = golden.write_folder(case, tmp_path / case)
    return folder_weights(folder, folder_config(folder), jnp.float32)


def test_every_case(golden, golden_case, tmp_path):
    """Padded on the left: ours like Penzai's, and Penzai's like torch's; or refused, and why."""
    why = reason(golden_case)
    if why is not None:
        config = config_from_hf(golden.described(golden_case)["config"])
        shapes = jax.eval_shape(lambda key: Decoder(config, key), jax.random.key(0))
        with pytest.raises(SelfxError, match=why):
            interop.to_penzai(shapes)
        return
    model = load(golden, golden_case, tmp_path)
    expected = golden.load(golden_case)
    width = max(len(row) for row in expected.rows) + PADS
    tokens, mask = np.ones((len(expected.rows), width), int), np.zeros((2, width), bool)
    for index, row in enumerate(expected.rows):
        tokens[index, width - len(row) :], mask[index, width - len(row) :] = row, True
    theirs, ours = both(model, tokens, mask)
    for index, want in enumerate(expected.logits):
        real = mask[index]
        assert_close(theirs[index][real], want, f"Penzai against torch, row {index}")
        assert_close(ours[index][real], theirs[index][real], f"ours against Penzai, row {index}")


def test_cases_of_every_family_that_penzai_knows(golden):
    known = {case.split("-")[0] for case in golden.CASES if reason(case) is None}
    assert {"llama", "mistral", "gemma2", "gpt_neox"} <= known


@pytest.fixture(scope="module")
def loaded_by_penzai(hf_state):
    """A function: a Llama of ours in Penzai, read by Penzai's own loader from a checkpoint."""

    def load(model):
        config = model.config
        state = {name: jnp.asarray(x) for name, x in hf_state(model).items()}
        fields = types.SimpleNamespace(
            num_key_value_heads=config.n_kv_heads,
            num_attention_heads=config.n_heads,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            vocab_size=config.vocab_size,
            rope_theta=config.ropes[0].theta,
            rms_norm_eps=config.norm_eps,
        )
        checkpoint = types.SimpleNamespace(
            config=fields, dtype="torch.float32", state_dict=lambda: state
        )
        return llamalike.llamalike_from_huggingface_model(checkpoint)

    return load


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_penzais_own_loader(loaded_by_penzai, kv_heads):
    """It finds the same weights in a checkpoint that `to_penzai` shows, and they come back."""
    model = tiny_model(tiny_config(n_layers=2, n_kv_heads=kv_heads))
    theirs, ours = loaded_by_penzai(model), interop.to_penzai(model)
    wanted = pz.select(theirs).at_instances_of(pz.Parameter).get_sequence()
    found = pz.select(ours).at_instances_of((interop.View, pz.Parameter)).get_sequence()
    assert len(wanted) == len(found)
    for got, want in zip(found, wanted, strict=True):
        assert dict(got.value.named_shape) == dict(want.value.named_shape), want.label
        order = tuple(want.value.named_shape)
        np.testing.assert_array_equal(
            got.value.unwrap(*order), want.value.unwrap(*order), err_msg=want.label
        )
    back = interop.from_penzai(theirs, model.config)
    for one, two in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(one, two)
