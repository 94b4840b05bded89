"""PEFT folders that we write: modules that hold several maps, and what we read of them again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from selfx.testing import tiny_config
from selfx.weights.peft import Matrices, load_adapter, read_adapter, save_adapter, write_adapter
from selfx.weights.peft.contents import WEIGHTS
from selfx.weights.peft.read import CONFIG

OTHERS = {
    "gpt2": {"gated": False, "learned_positions": True, "norm": "layer", "n_kv_heads": 4},
    "gpt_neox": {"gated": False, "norm": "layer", "n_kv_heads": 4},
    "phi3": {},
}


def product(adapter, layer):
    """What an adapter adds to a layer's weight `[in, out]`, in float64."""
    return adapter.scale * (np.float64(adapter.a[layer]) @ np.float64(adapter.b[layer]))


def drawn(config, maps, rank=2, scale=1.5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: Matrices(
            np.float32(rng.standard_normal((config.n_layers, config.map_shape(name)[0], rank))),
            np.float32(rng.standard_normal((config.n_layers, rank, config.map_shape(name)[1]))),
            scale,
        )
        for name in maps
    }


def fused_columns(family, config):
    """Where the outputs of each map lie in the fused one, worked out head by head."""
    if family == "gpt_neox":  # for each head its query, its key, its value
        starts = {name: 8 * i for i, name in enumerate("qkv")}
        return {
            name: [24 * head + start + i for head in range(4) for i in range(8)]
            for name, start in starts.items()
        }
    widths = {"q": 32, "k": config.n_kv_heads * 8, "v": config.n_kv_heads * 8}
    ends = np.cumsum(list(widths.values()))
    return {n: list(range(end - widths[n], end)) for n, end in zip("qkv", ends, strict=True)}


FUSED = {
    "gpt2": "base_model.model.transformer.h.2.attn.c_attn",
    "gpt_neox": "base_model.model.gpt_neox.layers.2.attention.query_key_value",
    "phi3": "base_model.model.model.layers.2.self_attn.qkv_proj",
}


@pytest.mark.parametrize("maps", ["qkv", "qv"])
@pytest.mark.parametrize("family", FUSED)
def test_maps_that_files_keep_as_one_are_written_in_blocks(family, maps, tmp_path):
    config = tiny_config(family=family, **OTHERS[family])
    adapters = drawn(config, maps) | {"o": drawn(config, "o", seed=9)["o"]}
    write_adapter(tmp_path, adapters, base="x", config=config)
    tensors, settings = load_file(tmp_path / WEIGHTS), json.loads((tmp_path / CONFIG).read_text())
    a, b = (tensors[f"{FUSED[family]}.lora_{side}.weight"] for side in "AB")
    columns, rank = fused_columns(family, config), 2 * len(maps)
    assert a.shape == (rank, 32)
    wanted = np.zeros((32, b.shape[0]))
    for name in maps:
        wanted[:, columns[name]] = product(adapters[name], 2)
    np.testing.assert_allclose(1.5 * (np.float64(b) @ a).T, wanted, rtol=1e-6)
    module = FUSED[family].rpartition(".")[2]
    ranks, alphas = settings["rank_pattern"], settings["alpha_pattern"]
    assert ranks.get(module, settings["r"]) == rank
    assert alphas.get(module, settings["lora_alpha"]) == 1.5 * rank
    assert settings["fan_in_fan_out"] is (family == "gpt2")
    again = read_adapter(tmp_path, config).matrices
    for name in adapters:
        np.testing.assert_allclose(product(again[name], 2), product(adapters[name], 2), rtol=1e-6)


@pytest.mark.parametrize("family", FUSED)
def test_maps_that_share_their_input_side_keep_their_rank(family, tmp_path):
    config = tiny_config(family=family, **OTHERS[family])
    adapters = drawn(config, "qkv")
    shared = {n: Matrices(adapters["q"].a, each.b, each.scale) for n, each in adapters.items()}
    write_adapter(tmp_path, shared, base="x", config=config)
    assert load_file(tmp_path / WEIGHTS)[f"{FUSED[family]}.lora_A.weight"].shape == (2, 32)
    again = read_adapter(tmp_path, config).matrices
    for name, each in shared.items():
        np.testing.assert_array_equal(again[name].a, each.a)
        np.testing.assert_array_equal(again[name].b, each.b)


def test_a_run_of_any_family_is_read_by_llamas_names(tmp_path):
    """As `selfx train` names modules, whatever the base calls them."""
    config = tiny_config(family="gpt2", **OTHERS["gpt2"])
    pairs = {n: (x.a, x.b) for n, x in drawn(config, config.maps).items()}
    save_adapter(tmp_path, pairs, alpha=4.0, base="x")
    again, scale = load_adapter(tmp_path, config)
    assert (set(again), scale) == (set(config.maps), 2.0)
    np.testing.assert_array_equal(again["v"][1], pairs["v"][1])


def test_jax_arrays_in_half_precision_are_written(tmp_path):
    pairs = {"q": (jnp.ones((4, 32, 2), jnp.bfloat16), jnp.ones((4, 2, 32), jnp.bfloat16))}
    save_adapter(tmp_path, pairs, alpha=4.0, base="x", config=tiny_config())
    assert load_adapter(tmp_path, tiny_config())[0]["q"][0].dtype == np.float32
