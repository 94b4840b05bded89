"""PEFT folders made by hand: every spelling and setting that is read, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from selfx.errors import SelfxError
from selfx.testing import tiny_config
from selfx.weights.peft import Matrices, load_adapter, read_adapter
from selfx.weights.peft.contents import WEIGHTS
from selfx.weights.peft.read import CONFIG

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 6.0, "target_modules": ["q_proj", "down_proj"]}
LAYERS = "base_model.model.model.layers."


def matrices(modules, rank=2, seed=0, layers=range(4)):
    """`{key: tensor}` of random pairs for `{module: (in, out)}` in some layers."""
    rng = np.random.default_rng(seed)
    return {
        f"{LAYERS}{layer}.{module}.lora_{side}.weight": np.float32(rng.standard_normal(shape))
        for layer in layers
        for module, (n_in, n_out) in modules.items()
        for side, shape in (("A", (rank, n_in)), ("B", (n_out, rank)))
    }


MODULES = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (64, 32)}
TENSORS = matrices(MODULES)


@pytest.fixture
def folder(tmp_path):
    """A function: a PEFT folder of some tensors and changed settings."""

    def write(tensors=TENSORS, **changes):
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / WEIGHTS)
        (tmp_path / CONFIG).write_text(json.dumps({**PLAIN, **changes}))
        return tmp_path

    return write


def product(adapter, layer):
    """What an adapter adds to a layer's weight `[in, out]`, in float64."""
    return adapter.scale * (np.float64(adapter.a[layer]) @ np.float64(adapter.b[layer]))


def written(tensors, module, layer, scale):
    """The same from the tensors of a file."""
    a, b = (tensors[f"{LAYERS}{layer}.{module}.lora_{side}.weight"] for side in "AB")
    return scale * (np.float64(b) @ np.float64(a)).T


def test_a_plain_folder_is_read_to_the_bit(folder):
    found = read_adapter(folder(), tiny_config())
    assert set(found.matrices) == {"q", "down"}
    assert {each.scale for each in found.matrices.values()} == {3.0}
    for layer in range(4):
        key = f"{LAYERS}{layer}.mlp.down_proj.lora_"
        np.testing.assert_array_equal(found.matrices["down"].a[layer], TENSORS[f"{key}A.weight"].T)
        np.testing.assert_array_equal(found.matrices["down"].b[layer], TENSORS[f"{key}B.weight"].T)


SPELLINGS = {
    "no prefix": lambda key: key.removeprefix("base_model.model."),
    "half a prefix": lambda key: key.replace("base_model.model.", "base_model.", 1),
    "the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "another name": lambda key: key.replace(".weight", ".oracle-2.weight"),
    "without its head": lambda key: key.replace("model.model.layers", "model.layers"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_are_understood(spelling, folder):
    found = read_adapter(
        folder({SPELLINGS[spelling](key): value for key, value in TENSORS.items()}), tiny_config()
    )
    for layer in range(4):
        wanted = written(TENSORS, "self_attn.q_proj", layer, 3.0)
        np.testing.assert_allclose(product(found.matrices["q"], layer), wanted, rtol=1e-12)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_is_read(dtype, folder):
    half = {key: value.astype(dtype) for key, value in TENSORS.items()}
    found = read_adapter(folder(half), tiny_config()).matrices["q"]
    assert (found.a.dtype, found.b.dtype) == (np.float32, np.float32)
    wanted = half[f"{LAYERS}1.self_attn.q_proj.lora_A.weight"].T.astype(np.float32)
    np.testing.assert_array_equal(found.a[1], wanted)


def test_ranks_and_scales_of_modules_are_their_own(folder):
    """Layer 1 has rank 5, layer 2 another alpha; one rank and one scale remain."""
    tensors = {**TENSORS, **matrices({"self_attn.q_proj": (32, 32)}, rank=5, layers=[1])}
    found = read_adapter(
        folder(tensors, rank_pattern={r"1\.self_attn.q_proj": 5}, alpha_pattern={r".*\.2\..*": 4}),
        tiny_config(),
    ).matrices
    assert (found["q"].a.shape, found["q"].b.shape) == ((4, 32, 5), (4, 5, 32))
    for layer, scale in enumerate((3.0, 6 / 5, 2.0, 3.0)):
        wanted = written(tensors, "self_attn.q_proj", layer, scale)
        np.testing.assert_allclose(product(found["q"], layer), wanted, rtol=1e-5, atol=1e-6)
    wanted = written(tensors, "mlp.down_proj", 2, 2.0)
    np.testing.assert_allclose(product(found["down"], 2), wanted, rtol=1e-5, atol=1e-6)


def test_rank_stabilised_scale(folder):
    found = read_adapter(folder(use_rslora=True), tiny_config()).matrices["q"]
    assert found.scale == 6 / np.sqrt(2)


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"layers_to_transform": [1, 3]}, {1, 3}),
        ({"layers_to_transform": 2, "layers_pattern": "layers"}, {2}),
        ({"target_modules": r".*\.[02]\.(self_attn\.q|mlp\.down)_proj"}, {0, 2}),
        ({"exclude_modules": r".*\.3\..*"}, {0, 1, 2}),
        ({"target_modules": [f"model.layers.1.{name}" for name in MODULES]}, {1}),
    ],
)
def test_layers_without_an_adapter_get_zeros(folder, changes, layers):
    some = matrices(MODULES, layers=sorted(layers))
    found = read_adapter(folder(some, **changes), tiny_config()).matrices
    for name, module in (("q", "self_attn.q_proj"), ("down", "mlp.down_proj")):
        for layer in range(4):
            wanted = written(some, module, layer, 3.0) if layer in layers else 0
            np.testing.assert_allclose(product(found[name], layer), wanted, rtol=1e-12)


def test_two_scales_in_one_call_are_one(folder):
    pairs, scale = load_adapter(folder(alpha_pattern={"q_proj": 5.0}), tiny_config())
    assert scale == 1.0
    for name, module, own in (("q", "self_attn.q_proj", 2.5), ("down", "mlp.down_proj", 3.0)):
        a, b = pairs[name]
        wanted = written(TENSORS, module, 3, own)
        np.testing.assert_allclose(product(Matrices(a, b, scale), 3), wanted, rtol=1e-5, atol=1e-6)


def plus(**more):
    return lambda: {**TENSORS, **{f"base_model.model.{k}": v for k, v in more.items()}}


BAD = {
    "lora on the head": (plus(**{"lm_head.lora_A.weight": np.ones((2, 32))}), "lm_head"),
    "lora on the embedding": (
        plus(**{"model.embed_tokens.lora_embedding_A": np.ones((2, 262))}),
        "lora_embedding_A",
    ),
    "dora": (
        plus(**{"model.layers.0.self_attn.q_proj.lora_magnitude_vector": np.ones(32)}),
        "lora_magnitude_vector",
    ),
    "a bias": (plus(**{"model.layers.0.self_attn.q_proj.bias": np.ones(32)}), "q_proj.bias"),
    "a part of images": (
        plus(**{"model.images.layers.0.self_attn.q_proj.lora_A.weight": np.ones((2, 32))}),
        "model.images",
    ),
    "an embedding of another width": (
        plus(**{"model.embed_tokens.weight": np.ones((300, 16))}),
        r"embed_tokens.weight \[300, 16\]",
    ),
    "a norm of another width": (plus(**{"model.norm.weight": np.ones(16)}), "model.norm"),
    "another model's width": (lambda: matrices({**MODULES, "mlp.down_proj": (48, 32)}), "'down'"),
    "more layers": (lambda: matrices(MODULES, layers=range(5)), r"layers.4"),
    "fewer layers": (lambda: matrices(MODULES, layers=range(3)), "without matrices.*layers.3"),
    "a module that is no target": (
        lambda: matrices({**MODULES, "mlp.up_proj": (32, 64)}),
        "not to be adapted.*up_proj",
    ),
    "rows without tokens": (
        plus(
            **{"model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 32))},
        ),
        "2 rows",
    ),
    "nothing": (dict, "no tensor"),
}


@pytest.mark.parametrize("kind", BAD)
def test_tensors_without_a_place_are_refused(kind, folder):
    tensors, message = BAD[kind]
    path = folder({k: np.asarray(v, np.float32) for k, v in tensors().items()})
    with pytest.raises(SelfxError, match=f"(?s){message}") as caught:
        read_adapter(path, tiny_config())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"target_parameters": ["experts.gate"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow"),
        ({"r": 0}, "rank 0"),
        ({"rank_pattern": {"q_proj": 0}}, "rank 0"),
        ({"rank_pattern": {"q_proj": 3}}, r"\[3, 32\]"),
        ({"r": "many"}, "missing or malformed"),
        ({"lora_alpha": None}, "missing or malformed"),
        ({"rank_pattern": {"(": 3}}, "missing or malformed"),
        ({"target_modules": "["}, "missing or malformed"),
        ({"layers_to_transform": [0]}, "not to be adapted"),
    ],
)
def test_settings_that_mean_something_else_are_refused(changes, message, folder):
    with pytest.raises(SelfxError, match=message):
        read_adapter(folder(**changes), tiny_config())


def test_settings_that_change_nothing_are_passed_over(folder):
    inert = {
        "lora_dropout": 0.1,
        "init_lora_weights": "gaussian",
        "fan_in_fan_out": True,
        "task_type": "CAUSAL_LM",
        "auto_mapping": {"base_model_class": "LlamaForCausalLM"},
        "loftq_config": {"loftq_bits": 4},
        "use_dora": False,
        "bias": "none",
    }
    found = read_adapter(folder(**inert), tiny_config())
    assert found.matrices["q"].scale == 3.0


def test_a_pickle_is_refused_with_a_way_out(tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps(PLAIN))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SelfxError, match="pickle.*\n.*\n.*save_pretrained"):
        read_adapter(tmp_path)


def test_saved_weights_do_not_stand_beside_a_base(folder):
    more = {"base_model.model.model.norm.weight": np.ones(32, np.float32)}
    with pytest.raises(SelfxError, match=r"model\.norm\.weight"):
        load_adapter(folder({**TENSORS, **more}), tiny_config())
