import math

import jax.numpy as jnp
import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.models.config import RopeScaling
from selfx.models.parameters import parameter_count
from selfx.models.rotary import rotary_tables
from selfx.models.zoo import config_from_hf

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}

SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 2048,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn as given": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 2048,
        "attention_factor": 1.25,
    },
    "yarn, nothing but a factor": {"rope_type": "yarn", "factor": 4.0},
}


def changed(**changes):
    return {**SMOLLM2, **changes}


def test_a_real_config_is_read():
    config = config_from_hf(SMOLLM2)
    assert (config.d_head, config.n_kv_heads, config.max_positions) == (64, 3, 8192)
    assert (config.ropes[0].theta, config.norm_eps, config.tied) == (100_000.0, 1e-5, True)
    assert parameter_count(config) == 134_515_008


def test_both_ages_of_rope_fields_say_the_same():
    new = {key: value for key, value in SMOLLM2.items() if not key.startswith("rope_")}
    for scaling in SCALINGS.values():
        old_way = config_from_hf(changed(rope_scaling=scaling))
        new_way = config_from_hf({**new, "rope_parameters": {**scaling, "rope_theta": 100000}})
        assert old_way == new_way
    default = {"rope_theta": 100000, "rope_type": "default"}
    assert config_from_hf({**new, "rope_parameters": default}) == config_from_hf(SMOLLM2)


def test_scalings_are_read():
    read = {
        name: config_from_hf(changed(rope_scaling=s)).ropes[0].scaling
        for name, s in SCALINGS.items()
    }
    assert read["linear"] == RopeScaling("linear", 2.0, 8192)
    assert read["dynamic"] == RopeScaling("dynamic", 4.0, 8192)
    assert read["llama3"] == RopeScaling("llama3", 8.0, 1024, 1.0, 4.0)
    assert read["yarn"].attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    mscale = (0.07 * math.log(4) + 1) / (0.13 * math.log(4) + 1)
    assert read["yarn with mscale"].attention_factor == pytest.approx(mscale)
    assert not read["yarn with mscale"].truncate
    assert read["yarn as given"].attention_factor == 1.25
    assert read["yarn, nothing but a factor"].original_max_positions == 8192


def test_a_yarn_factor_that_is_missing_comes_from_the_lengths():
    scaling = {**SCALINGS["yarn"], "factor": None}
    assert config_from_hf(changed(rope_scaling=scaling)).ropes[0].scaling.factor == 4.0


def test_the_older_name_of_the_rope_kind_is_read():
    scaling = {"type": "linear", "factor": 2.0}
    assert config_from_hf(changed(rope_scaling=scaling)).ropes[0].scaling.kind == "linear"


@pytest.mark.reference
@pytest.mark.parametrize("name", [*SCALINGS, "none"])
def test_rotary_tables_equal_those_of_transformers(name):
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    source = changed(rope_scaling=SCALINGS.get(name), head_dim=64)
    # Past 1,500 positions the float32 angles of the two differ in the last bits of a large number.
    positions = np.arange(0, 1500, 7)[None]
    theirs = LlamaRotaryEmbedding(LlamaConfig(**source))(
        torch.zeros(1), torch.tensor(positions, dtype=torch.int64)
    )
    ours = rotary_tables(config_from_hf(source), jnp.asarray(positions))
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine[0], reference[..., :32], atol=2e-4)


@pytest.mark.reference
def test_every_key_that_transformers_saves_is_known():
    pytest.importorskip("torch")
    from transformers import LlamaConfig

    saved = LlamaConfig(num_key_value_heads=8).to_dict()
    assert config_from_hf(saved).n_kv_heads == 8


@pytest.mark.parametrize(
    "key",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "model_type",
    ],
)
def test_a_missing_number_is_named(key):
    with pytest.raises(SelfxError, match="architecture None" if key == "model_type" else key):
        config_from_hf({k: v for k, v in SMOLLM2.items() if k != key})


def test_llama_2_is_older_than_the_base_of_its_rope():
    published = {key: value for key, value in SMOLLM2.items() if key != "rope_theta"}
    assert config_from_hf(published).ropes[0].theta == 10_000
    del published["mlp_bias"]
    with pytest.raises(SelfxError, match="lacks rope_theta"):
        config_from_hf({**published, "model_type": "olmo2"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "falcon"}, "falcon"),
        ({"model_type": ["llama"]}, "architecture"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": 576.0}, "hidden_size"),
        ({"hidden_size": "576"}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": "1e4"}, "rope_theta"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"num_key_value_heads": 2}, "2 key/value heads"),
        ({"head_dim": 63}, "63"),
        ({"hidden_size": 577}, "head_dim"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "short_factor"),
        ({"rope_scaling": {"rope_type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_scaling": {"rope_type": ["yarn"], "factor": 2.0}}, "yarn"),
        ({"rope_scaling": [2.0]}, "rope"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 1}}, "beta_fast"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "mrope": [1]}}, "mrope"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "low_freq_factor"),
        (
            {"rope_scaling": {**SCALINGS["llama3"], "high_freq_factor": 1.0}},
            "low_freq_factor",
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "dynamic",
                    "factor": 2.0,
                    "original_max_position_embeddings": 5,
                }
            },
            "original_max_position_embeddings",
        ),
        (
            {"rope_scaling": SCALINGS["linear"], "rope_parameters": SCALINGS["linear"]},
            "rope_parameters",
        ),
    ],
)
def test_what_is_not_honoured_raises_and_is_named(changes, message):
    with pytest.raises(SelfxError, match=message):
        config_from_hf(changed(**changes))
