"""Weights that are damaged, incomplete or of another model: everything said at once, nothing kept.

A byte that is flipped inside a tensor cannot be noticed by loading: the format has no checksum, and
every pattern of bits is a number. What notices it is the model's hash, which travels with every
record made from it.
"""

import gc
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import selfx
from selfx import sharding
from selfx.errors import SelfxError

LAYER = "model.layers.{}.mlp.up_proj.weight"
FILES = tuple(f"part-{i}.safetensors" for i in range(3))


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A sound model in three files, a third of every layer's tensors in each."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    index = {name: FILES[i % 3] for i, name in enumerate(sorted(state))}
    for file in FILES:
        save_file({name: state[name] for name in index if index[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    write_index(folder, index)
    return folder


def write_index(folder, index):
    about = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(about)


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def change(folder, file, edit):
    """Rewrites one file's tensors; `edit` changes them in place."""
    state = load_file(folder / file)
    edit(state)
    save_file(state, folder / file)


@pytest.fixture
def refused_everywhere(cli, refused, made, tmp_path, folder_tree):
    """A function: Python and the command line refuse the model with one message, and keep nothing.

    No array stays on any device, no file appears, and the model's own are as they were.
    """

    def check(folder, *said):
        before, files = held(), folder_tree(folder)
        with pytest.raises(SelfxError) as caught:
            selfx.load(folder)
        message = str(caught.value)
        del caught
        assert held() <= before
        done = cli("train", "--data", made.trace, "--explainer", folder, "--out", tmp_path / "run")
        assert message in refused(done, *said)
        assert held() <= before
        assert not (tmp_path / "run").exists()
        assert folder_tree(folder) == files
        return message

    return check


def held():
    """Bytes of all arrays alive."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def test_the_sound_one_loads(model, tiny_lm):
    for one, two in zip(
        jax.tree.leaves(selfx.load(model).model), jax.tree.leaves(tiny_lm.model), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_everything_is_said_at_once(model, refused_everywhere):
    """Of a folder that suffers from all of it."""
    index = index_of(model)
    (model / FILES[0]).unlink()
    whole = (model / FILES[1]).read_bytes()
    (model / FILES[1]).write_bytes(whole[:-100])

    def spoil(state):
        names = sorted(state)
        del state[names[0]]
        state[names[1]] = np.ones((3, 5), np.float32)
        state[names[2]] = np.ones(state[names[2]].shape, np.int8)
        state["model.layers.0.visitor.weight"] = np.ones(3, np.float32)
        lost.extend(names[:3])

    lost = []
    change(model, FILES[2], spoil)
    (model / "tokenizer.json").write_text("{")
    message = refused_everywhere(
        model,
        "no readable tokenizer",
        f"lacks shards: {FILES[0]}",
        f"{FILES[1]} is not a readable safetensors file",
        f"missing: {lost[0]}\n",
        "unexpected: model.layers.0.visitor.weight\n",
        f"wrong shape: {lost[1]} [3, 5], not [",
        f"in the index alone: {lost[0]} in {FILES[2]}\n",
        f"stored as I8: {lost[2]}\n",
        "expected: ",
        "try: ",
    )
    elsewhere = [name for name, file in index.items() if file != FILES[2]]
    assert not [name for name in elsewhere if name in message]  # gone with their files


@pytest.mark.parametrize(
    "damage",
    ["cut in its data", "cut in its header", "header flipped", "header too long", "longer"],
)
def test_a_damaged_shard(model, refused_everywhere, damage):
    file = model / FILES[1]
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    middle = 8 + size // 2
    flipped = bytes(b ^ 0xFF for b in whole[middle : middle + 8])
    file.write_bytes(
        {
            "cut in its data": whole[:-1],
            "cut in its header": whole[:middle],
            "header flipped": whole[:middle] + flipped + whole[middle + 8 :],
            "header too long": (1 << 40).to_bytes(8, "little") + whole[8:],
            "longer": whole + b"\0",
        }[damage]
    )
    message = refused_everywhere(model, f"{FILES[1]} is not a readable safetensors file", "fetch")
    assert "missing" not in message


def test_flipped_data_is_another_model(model, tiny_lm):
    """It loads, for nothing can tell; the hash does."""
    before, file = selfx.load(model), model / FILES[1]
    whole = bytearray(file.read_bytes())
    whole[-3] ^= 0x40
    file.write_bytes(whole)
    after = selfx.load(model)
    assert after.hash != before.hash
    leaves = zip(jax.tree.leaves(after.model), jax.tree.leaves(tiny_lm.model), strict=True)
    assert sum(int((np.asarray(one) != np.asarray(two)).sum()) for one, two in leaves) == 1


def test_a_missing_tensor(model, refused_everywhere):
    """Missing from the file, or from the file and the index."""
    name, index = LAYER.format(2), index_of(model)
    file = index.pop(name)
    change(model, file, lambda state: state.pop(name))
    message = refused_everywhere(
        model, f"missing: {name}\n", f"in the index alone: {name} in {file}"
    )
    assert "unexpected" not in message
    write_index(model, index)
    assert "index" not in refused_everywhere(model, f"missing: {name}\n")


def test_an_extra_tensor(model, refused_everywhere):
    extra = "model.layers.9.mlp.up_proj.weight"
    change(model, FILES[0], lambda state: state.update({extra: np.ones((4, 4), np.float32)}))
    assert "missing" not in refused_everywhere(model, f"unexpected: {extra}\n")


def test_a_tensor_of_another_shape(model, refused_everywhere):
    name = LAYER.format(1)
    file = index_of(model)[name]
    change(model, file, lambda state: state.update({name: state[name].T.copy()}))
    refused_everywhere(model, f"wrong shape: {name} [32, 64], not [64, 32]\n")


def test_a_tensor_in_two_files(model, refused_everywhere):
    """Even if both agree: which one is meant is not ours to say."""
    name = LAYER.format(3)
    file = index_of(model)[name]
    other = next(each for each in FILES if each != file)
    tensor = load_file(model / file)[name]
    change(model, other, lambda state: state.update({name: tensor}))
    two = " and ".join(sorted((file, other)))
    refused_everywhere(model, f"there twice: {name} in {two}\n")


def test_a_tensor_under_two_names(golden, tmp_path):
    """Old and new names of one weight, both in the file."""
    from selfx.weights.safetensors import folder_config, folder_weights

    folder = golden.write_folder("gpt2-plain", tmp_path / "gpt2")

    def again(state):
        name = next(name for name in state if name.endswith("wpe.weight"))
        twin = name.removeprefix("transformer.") if "." in name[:-7] else f"transformer.{name}"
        state[twin] = state[name] + 1

    change(folder, "model.safetensors", again)
    with pytest.raises(SelfxError, match="there twice: wpe.weight in model.safetensors and model"):
        folder_weights(folder, folder_config(folder), np.float32)


def test_absent_shards(model, refused_everywhere):
    (model / FILES[0]).unlink()
    (model / FILES[2]).unlink()
    message = refused_everywhere(model, f"lacks shards: {FILES[0]}, {FILES[2]}\n")
    assert "missing" not in message


def test_an_index_that_puts_a_tensor_elsewhere(model, refused_everywhere):
    name, index = LAYER.format(0), index_of(model)
    index[name] = next(file for file in FILES if file != index[name])
    write_index(model, index)
    message = refused_everywhere(model, f"in the index alone: {name} in {index[name]}\n")
    assert "missing" not in message


@pytest.mark.parametrize("content", ["[]", "3", "null", '"llama"'])
def test_a_config_that_is_no_object(model, refused_everywhere, content):
    (model / "config.json").write_text(content)
    refused_everywhere(model, f"{model / 'config.json'} holds a ", "expected: a JSON object")


def test_a_config_of_another_family(model, golden, refused_everywhere):
    """One that is known: all tensors of the one are missing, all of the other unexpected."""
    about = golden.described("gpt2-plain")["config"] | {"vocab_size": 300}
    (model / "config.json").write_text(json.dumps(about))
    message = refused_everywhere(model, "do not fit its config", "missing: h.0.", " more\n")
    assert "unexpected: model.embed_tokens.weight, model.layers.0." in message


def test_a_tokenizer_that_does_not_fit_and_weights_that_do_not(model, refused_everywhere):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    refused_everywhere(
        model,
        "has 262 tokens",
        "at most 100, the rows of the model's embedding",
        "wrong shape: lm_head.weight [262, 32], not [100, 32], model.embed_tokens.weight",
    )


def test_no_tokenizer(model, refused_everywhere):
    for file in model.glob("*token*"):
        file.unlink()
    refused_everywhere(model, f"no readable tokenizer in {model}", "fetch the folder again")


def test_quantised_weights(model, refused_everywhere):
    """By their dtypes, all of them named, though the config does not say so."""

    def quantised(dtype):
        def edit(state):
            for name in state:
                if name.endswith("proj.weight"):
                    state[name] = np.ones(state[name].shape, dtype)

        return edit

    change(model, FILES[0], quantised(np.int8))
    change(model, FILES[1], quantised(np.uint8))
    refused_everywhere(model, "stored as I8: model.", "stored as U8: model.", ".gguf file")


@pytest.mark.parametrize("way", ["HostRoom", "DeviceRoom"])
def test_a_file_that_fails_while_it_is_read(model, monkeypatch, way):
    """After the check, half way through: what was written so far is let go, in both ways."""
    monkeypatch.setattr(sharding, "HostRoom", getattr(sharding, way))
    plain, before, opened = np.memmap, held(), []

    def fails(file, *rest, **more):
        opened.append(file)
        if len(opened) == 3:
            raise OSError(5, "Input/output error")
        return plain(file, *rest, **more)

    monkeypatch.setattr(np, "memmap", fails)
    with pytest.raises(SelfxError, match=f"cannot read .*{FILES[2]}.*Input/output error") as caught:
        selfx.load(model)
    del caught
    assert held() <= before
