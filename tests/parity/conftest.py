"""Models as other libraries want them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from selfx.weights.safetensors import folder_config, folder_weights

ONE_A_FAMILY = (
    "gemma2-alternating",
    "gemma3_text-local",
    "gpt2-plain",
    "gpt_neox-parallel",
    "llama-llama3",
    "mimo-mtp",
    "ministral-layer_types",
    "mistral-sliding",
    "olmo2-gqa",
    "olmo3-yarn",
    "phi3-longrope",
    "qwen2-sliding",
    "qwen3-norms",
    "qwen3_moe-normed",
    "smollm3-nope",
)

MOST_UNLIKE = ("gemma3_text-local", "gpt2-plain", "gpt_neox-parallel", "qwen3_moe-normed")
"""What takes long is done by default for these only; for the others it is marked `slow`."""


def pytest_generate_tests(metafunc):
    if "one_a_family" in metafunc.fixturenames:
        metafunc.parametrize("one_a_family", ONE_A_FAMILY)
    if "family_apart" in metafunc.fixturenames:
        slow = {case: () if case in MOST_UNLIKE else pytest.mark.slow for case in ONE_A_FAMILY}
        cases = [pytest.param(case, marks=marks) for case, marks in slow.items()]
        metafunc.parametrize("family_apart", cases)


@pytest.fixture(scope="session")
def model(golden, tmp_path_factory):
    """A function: the model of a golden case, loaded once."""

    @functools.cache
    def load(case):
        folder = golden.write_folder(case, tmp_path_factory.mktemp(case))
        return folder_weights(folder, folder_config(folder), jnp.float32)

    return load


HF_MAPS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
HF_NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


@pytest.fixture(scope="session")
def hf_state(numpy_llama):
    """A function: a model's weights as float32, under the names of Hugging Face's Llama."""

    def state(model):
        w = {path: np.float32(value) for path, value in numpy_llama.weights(model).items()}
        named = {"model.embed_tokens.weight": w["embed"], "model.norm.weight": w["final_norm.w"]}
        named["lm_head.weight"] = w["embed"] if model.config.tied else w["unembed.w"].T
        for layer in range(model.config.n_layers):
            for ours, theirs in HF_MAPS.items():
                name = f"model.layers.{layer}.{theirs}"
                named[f"{name}.weight"] = w[f"blocks.{ours}.w"][layer].T
                if f"blocks.{ours}.b" in w:
                    named[f"{name}.bias"] = w[f"blocks.{ours}.b"][layer]
            for ours, theirs in HF_NORMS.items():
                named[f"model.layers.{layer}.{theirs}.weight"] = w[f"blocks.{ours}.w"][layer]
        return {name: np.ascontiguousarray(value) for name, value in named.items()}

    return state
