import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import selfx
from selfx.errors import SelfxError


def same(read, written, dtype=np.float32):
    assert read.keys() == written.keys()
    for path, value in written.items():
        np.testing.assert_array_equal(read[path], value.astype(dtype), err_msg=path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True},
        {"n_kv_heads": 4, "attention_bias": True, "output_bias": True},
        {"n_kv_heads": 1, "mlp_bias": True, "d_head": 16},
    ],
    ids=str,
)
def test_every_weight_arrives(folder, tiny, weights_of, changes):
    model = tiny(**changes)
    lm = selfx.load(folder(model))
    same(weights_of(lm.model), weights_of(model))
    assert lm.config == model.config


def test_shards_hold_the_same_as_one_file(folder, tiny, weights_of):
    model = tiny()
    same(weights_of(selfx.load(folder(model, shards=3)).model), weights_of(model))


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("asked", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_converted(folder, tiny, weights_of, stored, asked):
    model = tiny()
    read = weights_of(selfx.load(folder(model, dtype=stored), dtype=asked).model)
    for path, value in weights_of(model).items():
        assert read[path].dtype == asked
        np.testing.assert_array_equal(read[path], value.astype(stored).astype(asked))


def test_a_head_stored_beside_a_tied_embedding_is_tolerated(folder, tiny):
    model = tiny(tied=True)
    head = np.zeros((model.config.vocab_size, model.config.d_model), np.float32)
    path = folder(model, tensors=lambda state: {**state, "lm_head.weight": head})
    assert selfx.load(path).model.unembed is None
    path = folder(model, tensors=lambda state: {**state, "lm_head.weight": head[1:]})
    with pytest.raises(SelfxError, match=r"lm_head.weight \[271, 32\], not \[272, 32\]"):
        selfx.load(path)


def test_stored_rotary_frequencies_are_tolerated(folder, tiny):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    selfx.load(folder(tiny(), tensors=lambda state: {**state, name: np.ones(4, np.float32)}))


def test_all_that_does_not_fit_is_said_at_once(folder, tiny):
    def spoil(state):
        del state["model.layers.2.mlp.up_proj.weight"], state["model.norm.weight"]
        state["model.layers.0.self_attn.q_norm.weight"] = np.ones(8, np.float32)
        state["model.layers.1.self_attn.o_proj.weight"] = np.ones((32, 31), np.float32)
        return state

    with pytest.raises(SelfxError) as error:
        selfx.load(folder(tiny(), tensors=spoil))
    message = str(error.value)
    assert "missing: model.layers.2.mlp.up_proj.weight, model.norm.weight" in message
    assert "unexpected: model.layers.0.self_attn.q_norm.weight" in message
    assert "model.layers.1.self_attn.o_proj.weight [32, 31], not [32, 32]" in message


def test_the_config_of_another_model_is_noticed(folder, tiny):
    with pytest.raises(SelfxError, match="wrong shape"):
        selfx.load(folder(tiny(), intermediate_size=96))
    with pytest.raises(SelfxError, match="unexpected: .*layers.3"):
        selfx.load(folder(tiny(), num_hidden_layers=3))
    with pytest.raises(SelfxError, match=r"missing: .*layers.4.* and \d+ more"):
        selfx.load(folder(tiny(), num_hidden_layers=6))
    with pytest.raises(SelfxError, match="missing: lm_head.weight"):
        selfx.load(folder(tiny(tied=True), tie_word_embeddings=False))


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "no header"])
def test_a_damaged_file_is_named(folder, tiny, damage):
    path = folder(tiny())
    file = path / "model.safetensors"
    whole = file.read_bytes()
    noise = np.random.default_rng(0).bytes(2000)
    file.write_bytes(
        {"empty": b"", "cut": whole[: len(whole) // 2], "noise": noise, "no header": whole[:5]}[
            damage
        ]
    )
    with pytest.raises(SelfxError, match="model.safetensors is not a readable safetensors file"):
        selfx.load(path)


def test_a_missing_shard_is_named(folder, tiny):
    path = folder(tiny(), shards=3)
    (path / "model-00001.safetensors").unlink()
    with pytest.raises(SelfxError, match="lacks shards: model-00001.safetensors"):
        selfx.load(path)


def test_a_damaged_shard_is_named(folder, tiny):
    path = folder(tiny(), shards=3)
    (path / "model-00002.safetensors").write_bytes(b"")
    with pytest.raises(SelfxError, match="model-00002.safetensors"):
        selfx.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff"])
def test_a_broken_config_is_named(folder, tiny, text):
    path = folder(tiny())
    (path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SelfxError, match="config.json"):
        selfx.load(path)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": 3}])
def test_a_broken_index_is_named(folder, tiny, index):
    path = folder(tiny(), shards=2)
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SelfxError, match="index.json has no weight_map"):
        selfx.load(path)


def test_quantised_tensors_are_refused(folder, tiny):
    def integers(state):
        return {name: (10 * value).astype(np.int8) for name, value in state.items()}

    with pytest.raises(SelfxError, match="stored as I8"):
        selfx.load(folder(tiny(), tensors=integers))


def test_missing_files_are_named(folder, tiny, tmp_path):
    with pytest.raises(SelfxError, match="no config.json"):
        selfx.load(tmp_path)
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(SelfxError, match="give the file, .*some.gguf"):
        selfx.load(tmp_path)
    path = folder(tiny())
    (path / "model.safetensors").unlink()
    with pytest.raises(SelfxError, match="no weights"):
        selfx.load(path)


def test_errors_of_the_config_name_the_folder(folder, tiny):
    path = folder(tiny(), hidden_act="mish")
    with pytest.raises(SelfxError, match=f"{path.name}.*hidden_act"):
        selfx.load(path)
