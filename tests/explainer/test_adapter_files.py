"""Adapters on disk: our own round trip, PEFT's reading of them, and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfx.errors import SelfxError
from selfx.explainer import lora
from selfx.explainer.lora import Lora
from selfx.models.block import MAPS
from selfx.models.decoder import forward
from selfx.weights.peft import load_adapter, save_adapter


@pytest.fixture(scope="module")
def adapters(tiny):
    fresh = lora.init(tiny.config, rank=3, alpha=6.0, key=jax.random.key(0))
    rng = np.random.default_rng(3)
    draw = {name: 0.2 * rng.standard_normal(x.b.shape) for name, x in fresh.items()}
    return {n: Lora(x.a, jnp.asarray(draw[n], jnp.float32), x.scale) for n, x in fresh.items()}


@pytest.fixture(scope="module")
def written(adapters, tiny_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "adapter"
    pairs = {name: (x.a, x.b) for name, x in adapters.items()}
    save_adapter(path, pairs, alpha=6.0, base=str(tiny_folder))
    return path


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "adapter")


def test_what_is_saved_is_loaded(adapters, written):
    pairs, scale = load_adapter(written)
    assert scale == 2.0
    assert set(pairs) == set(MAPS)
    for name, (a, b) in pairs.items():
        np.testing.assert_array_equal(a, adapters[name].a)
        np.testing.assert_array_equal(b, adapters[name].b)


def test_the_layout_is_pefts(adapters, written, tiny):
    tensors = load_file(written / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(MAPS) * tiny.config.n_layers
    key = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"
    np.testing.assert_array_equal(tensors[key], np.asarray(adapters["down"].a[2]).T)
    config = json.loads((written / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 6.0, "LORA")
    assert "down_proj" in config["target_modules"]


def test_some_maps_only(adapters, tmp_path):
    save_adapter(tmp_path, {"v": (adapters["v"].a, adapters["v"].b)}, alpha=3.0, base="x")
    pairs, scale = load_adapter(tmp_path)
    assert (set(pairs), scale) == ({"v"}, 1.0)


@pytest.mark.reference
def test_peft_computes_the_same_logits(adapters, written, tiny, tiny_folder):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    tokens = np.random.default_rng(0).integers(6, 262, (2, 17))
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, written).eval()
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    ours = np.asarray(forward(tiny, tokens, lora=adapters).logits)
    np.testing.assert_allclose(ours, theirs, atol=5e-5 * np.abs(theirs).max())
    plain = np.asarray(forward(tiny, tokens).logits)
    assert np.abs(plain - theirs).max() > 0.1


@pytest.mark.reference
def test_what_peft_saves_is_loaded(tiny, tiny_folder, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False
    )
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path)
    pairs, scale = load_adapter(tmp_path)
    assert set(pairs) == {"q", "up"}
    adapters = {n: Lora(jnp.asarray(a), jnp.asarray(b), scale) for n, (a, b) in pairs.items()}
    tokens = np.random.default_rng(0).integers(6, 262, (2, 17))
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    ours = np.asarray(forward(tiny, tokens, lora=adapters).logits)
    np.testing.assert_allclose(ours, theirs, atol=5e-5 * np.abs(theirs).max())


def rewrite(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k: np.ascontiguousarray(v) for k, v in change(tensors).items()}, file)


def without(*parts):
    return lambda tensors: {k: v for k, v in tensors.items() if not all(p in k for p in parts)}


def cut(part):
    return lambda tensors: {k: v[:2] if part in k else v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers.1."), "layers"),
        (without("q_proj", "lora_B"), "'q'"),
        (without("layers.3.", "lora_A", "v_proj"), "'v'"),
        (lambda tensors: {}, "no tensor"),
        (lambda t: {**t, "base_model.model.lm_head.lora_A.weight": np.ones((3, 32))}, "lm_head"),
        (lambda t: {**t, "made.up": np.ones(3)}, "made.up"),
        (cut("lora_A"), "rank 3"),
        (cut("layers.0.self_attn.k_proj.lora_A"), "shapes"),
    ],
)
def test_matrices_that_do_not_add_up(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(SelfxError, match=message) as caught:
        load_adapter(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "rank 0"),
        ({"r": None}, "missing or malformed"),
        ({"lora_alpha": "much"}, "missing or malformed"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 8}}, "rank 8"),
        ({"bias": "all"}, "bias"),
        ({"r": 2}, "rank 2"),
    ],
)
def test_settings_that_mean_another_computation(folder, change, message):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(SelfxError, match=message):
        load_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "words", "list"])
def test_damaged_files(folder, name, damage):
    file = folder / name
    whole = file.read_bytes()
    contents = {"empty": b"", "half": whole[: len(whole) // 2], "words": b"hello", "list": b"[1]"}
    file.unlink() if damage == "missing" else file.write_bytes(contents[damage])
    with pytest.raises(SelfxError, match=name):
        load_adapter(folder)
