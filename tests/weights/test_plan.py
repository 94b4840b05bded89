"""What a model will take, against published figures and against models that are really loaded."""

import io
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import selfx
from selfx.errors import SelfxError
from selfx.weights import hub
from selfx.weights.plan import plan

PUBLISHED = Path(__file__).parents[1] / "models" / "published"


@pytest.fixture
def published(tmp_path):
    """A function: the config of a full-size model, alone in a folder."""

    def write(name):
        about = json.loads((PUBLISHED / f"{name}.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(about["config"]))
        return tmp_path

    return write


def words(value):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(value)
    return console.export_text()


def test_llama_70b_over_eight_devices(published):
    """Against the arithmetic of its published sizes, in seconds, and nothing is allocated."""
    folder, before, began = published("llama-3.1-70b"), len(jax.live_arrays()), time.monotonic()
    found = plan(folder, dtype="bfloat16", mesh_shape=(1, 8))
    assert time.monotonic() - began < 10
    assert len(jax.live_arrays()) <= before + 1  # a random key may be kept
    assert found.parameters == found.active_parameters == 70_553_706_496
    assert found.weight_bytes == 2 * 70_553_706_496
    assert found.embedding_parameters == 2 * 128_256 * 8192
    norms = (2 * 80 + 1) * 8192
    assert found.device_bytes == 2 * ((70_553_706_496 - norms) // 8 + norms)
    assert found.cache_bytes == 327_680_000  # 320 KiB a token, as is well known
    layer = 16 * (2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 28_672))
    assert found.adapter_parameters == 80 * layer
    assert found.training_bytes == 16 * found.adapter_parameters
    assert found.loading_bytes is None


def test_experts_that_sleep_are_not_active(published):
    found = plan(published("qwen3-30b-a3b") / "config.json", dtype="bfloat16", mesh_shape=(2, 4))
    assert found.parameters == 30_532_122_624
    assert round(found.active_parameters / 1e9, 1) == 3.4  # published as 3.3, cut off
    experts = {w.path: w for w in found.weights if ".experts." in w.path}
    assert experts["blocks.experts.up"].spec == (None, "model", None, None)
    assert experts["blocks.experts.up"].device_bytes == 2 * 48 * 32 * 2048 * 768


@pytest.mark.parametrize("model", [1, 3, 4])
@pytest.mark.parametrize("case", ["gpt2-plain", "qwen3_moe-normed", "llama-gqa"])
def test_devices_hold_what_was_planned(golden, tmp_path, case, model):
    """Every weight's bytes and sharding, as JAX reports them of the loaded model."""
    from selfx.models.parameters import parameter_path
    from selfx.weights.safetensors import folder_config, folder_weights

    folder = golden.write_folder(case, tmp_path)
    mesh = selfx.make_mesh(data=2, model=model)
    loaded = folder_weights(folder, folder_config(folder), jnp.bfloat16, mesh)
    found = plan(folder, dtype="bfloat16", mesh_shape=(2, model))
    rows = {weight.path: weight for weight in found.weights}
    leaves, _ = jax.tree_util.tree_flatten_with_path(loaded)
    assert len(leaves) == len(rows)
    for path, leaf in leaves:
        row = rows[parameter_path(path)]
        assert (row.shape, row.dtype) == (leaf.shape, "bfloat16")
        assert row.spec == tuple(leaf.sharding.spec)
        assert {shard.data.nbytes for shard in leaf.addressable_shards} == {row.device_bytes}
    assert found.device_bytes == sum(row.device_bytes for row in rows.values())
    assert found.parameters == sum(leaf.size for _, leaf in leaves)


def test_what_does_not_divide_is_said(golden, tmp_path):
    found = plan(golden.write_folder("llama-gqa", tmp_path), mesh_shape=(1, 3))
    rows = {weight.path: weight for weight in found.weights}
    assert rows["blocks.gate.w"].unsplit == ()  # 48 wide
    assert rows["blocks.q.w"].unsplit == (2,)
    assert rows["embed"].unsplit == (0,)
    text = words(found)
    assert "embed stays whole: 3 devices do not divide its axis of 64" in text
    assert "blocks.gate.w stays whole" not in text


def test_the_largest_file_by_the_index_alone(folder, tiny):
    """As the files are, to a header's length, when only config and index are left."""
    path = folder(tiny(), shards=3)
    index = path / "model.safetensors.index.json"
    about = json.loads(index.read_text())
    about["metadata"]["total_size"] = sum(4 * leaf.size for leaf in jax.tree.leaves(tiny()))
    index.write_text(json.dumps(about))
    largest = max(file.stat().st_size for file in path.glob("*.safetensors"))
    assert plan(path).largest_file_bytes == largest
    for file in path.glob("*.safetensors"):
        file.unlink()
    found = plan(path)
    assert 0 <= largest - found.largest_file_bytes < 3000
    assert found.loading_bytes > found.largest_file_bytes
    about["metadata"] = {}
    index.write_text(json.dumps(about))
    assert plan(path).largest_file_bytes is None


def test_a_gguf_file(gguf_file, tiny):
    model = tiny()
    file = gguf_file(model, kind="Q8_0")
    found = plan(file)
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(model))
    assert found.largest_file_bytes == file.stat().st_size


def test_of_a_hub_model_only_the_config_is_fetched(monkeypatch, published, tmp_path):
    folder, asked = published("smollm2-135m"), []

    def client(name, allow_patterns):
        asked.append((name, allow_patterns))
        return folder

    monkeypatch.setattr(hub, "snapshot_download", client)
    assert plan("some-org/some-model").parameters == 134_515_008
    assert asked == [("some-org/some-model", ["config.json", "*.safetensors.index.json"])]


def test_it_is_plain_json_and_says_the_same_to_people(published):
    found = plan(published("llama-3.2-1b"), dtype=jnp.bfloat16, mesh_shape=(2, 4))
    said = json.loads(json.dumps(found.to_json()))
    assert said["parameters"] == 1_235_814_400
    assert said["mesh"] == {"data": 2, "model": 4}
    assert said["weights"][0].keys() >= {"path", "shape", "dtype", "spec", "device_bytes"}
    text = words(found)
    for words_of_it in ("1,235,814,400", "2.47 GB", "each of 8 devices", "axis 2 over model"):
        assert words_of_it in text


@pytest.mark.parametrize("bad", [{"mesh_shape": (0, 1)}, {"mesh_shape": (1,)}, {"rank": 0}])
def test_numbers_below_one_are_refused(published, bad):
    with pytest.raises(SelfxError, match="a mesh of"):
        plan(published("gpt2"), **bad)


def test_what_is_not_known_is_refused(tmp_path, published):
    with pytest.raises(SelfxError, match="unknown model"):
        plan(tmp_path / "absent" / "there")
    with pytest.raises(SelfxError, match="dtype 'int8'"):
        plan(published("gpt2"), dtype="int8")
    file = tmp_path / "config.json"
    file.write_text("[]")
    for name in (file, tmp_path):
        with pytest.raises(SelfxError, match="config.json holds a list"):
            plan(name)
    file.write_text('{"model_type": "mamba"}')
    with pytest.raises(SelfxError, match=f"{file}.*'mamba'"):
        plan(file)
