"""Loading at size: straight to the shards of a mesh, from several files, in little memory.

A mesh of CPU devices is filled in the host's memory, and one of accelerators by updates on the
devices; here both ways are taken, the second by pretending.
"""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import selfx
from selfx import sharding
from selfx.models.parameters import parameter_path, parameter_shapes
from selfx.weights.safetensors import folder_config, folder_weights

CASES = (
    "llama-gqa",  # a map a tensor
    "gpt2-plain",  # q, k and v in one tensor, not transposed, with biases
    "gpt_neox-parallel",  # q, k and v in one tensor, head by head
    "phi3-partial",  # q, k, v in one tensor, gate and up in another
    "qwen3_moe-normed",  # experts
    "gemma2-alternating",  # norms after the maps, a tied head
)
SPLIT = {  # by the last part of the path: the axis that the "model" devices share, from the end
    **dict.fromkeys(("q.w", "k.w", "v.w", "gate.w", "up.w", "unembed.w"), -1),
    **dict.fromkeys(("q.b", "k.b", "v.b", "gate.b", "up.b"), -1),
    **dict.fromkeys(("o.w", "down.w"), -2),
    **dict.fromkeys(("experts.gate", "experts.up", "experts.down"), -3),
    "embed": -2,
}


@pytest.fixture
def mesh(request):
    """2 x 4 devices; 4 x 2 for the experts, of which there are 6."""
    case = getattr(request.node, "callspec", None)
    few = case is not None and "moe" in case.id
    return selfx.make_mesh(data=4, model=2) if few else selfx.make_mesh(data=2, model=4)


@pytest.fixture(scope="module")
def folder_of(golden, tmp_path_factory):
    """A function: a golden case as a folder."""
    return lambda case: golden.write_folder(case, tmp_path_factory.mktemp(case))


@pytest.fixture(params=["host", "device"])
def way(request, monkeypatch):
    """How weights are filled: as on a mesh of CPU devices, or of accelerators."""
    if request.param == "device":
        monkeypatch.setattr(sharding, "HostRoom", sharding.DeviceRoom)
    return request.param


def read(folder, mesh=None, dtype=jnp.float32):
    return folder_weights(folder, folder_config(folder), dtype, mesh)


def leaves(model):
    found, _ = jax.tree_util.tree_flatten_with_path(model)
    return {parameter_path(path): leaf for path, leaf in found}


def assert_same(one, two):
    one, two = leaves(one), leaves(two)
    assert one.keys() == two.keys()
    for path, leaf in one.items():
        assert leaf.dtype == two[path].dtype
        np.testing.assert_array_equal(leaf, two[path], err_msg=path)


def split_axis(path, shape, parts):
    """The axis that a weight is split along, or None."""
    for end, axis in SPLIT.items():
        if path == end or path.endswith(f".{end}"):
            return axis % len(shape) if shape[axis] % parts == 0 else None
    return None


@pytest.mark.parametrize("case", CASES)
def test_every_weight_is_where_it_should_be(folder_of, mesh, way, case):
    """A part on each device along the right axis, and together the weights of one device."""
    folder, parts = folder_of(case), mesh.shape["model"]
    spread, whole = read(folder, mesh), read(folder)
    assert_same(spread, whole)
    n_split = 0
    for path, leaf in leaves(spread).items():
        axis, shape = split_axis(path, leaf.shape, parts), list(leaf.shape)
        if axis is not None:
            shape[axis] //= parts
            n_split += 1
        assert leaf.sharding.device_set == set(mesh.devices.flat)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {tuple(shape)}, path
    assert n_split >= 7


@pytest.mark.parametrize("case", ["gpt2-plain", "qwen3_moe-normed"])
def test_no_device_ever_holds_a_whole_weight(folder_of, mesh, way, case, monkeypatch):
    """The weight being written and every other array alive, after every single write."""
    folder, n = folder_of(case), mesh.shape["model"]
    cls = sharding.DeviceRoom if way == "device" else sharding.HostRoom
    before, written, plain = {id(a) for a in jax.live_arrays()}, [0], cls.write
    shapes = {path: leaf.shape for path, leaf in parameter_shapes(folder_config(folder)).items()}
    pieces = set()  # what a device may hold: a part of each weight that is split, all of others
    for path, shape in shapes.items():
        axis = split_axis(path, shape, n)
        pieces.add(tuple(m // n if i == axis else m for i, m in enumerate(shape)))

    def write(room, part, index):
        plain(room, part, index)
        written.append(part.size)
        if way == "host":
            shape, held = room.shape, [shard.size for shard in room.shards.values()]
            assert sum(held) == np.prod(shape)  # once, however many devices show it
        else:
            shape = room.whole.shape
            held = [shard.data.size for shard in room.whole.addressable_shards]
        split = max(held) < np.prod(shape)
        assert max(held) == np.prod(shape) // (n if split else 1)
        assert split == (not room.sharding.is_fully_replicated)
        for array in jax.live_arrays():
            if id(array) not in before:
                for shard in array.addressable_shards:
                    assert shard.data.shape in pieces or shard.data.size <= max(written)

    monkeypatch.setattr(cls, "write", write)
    model = leaves(read(folder, mesh))
    assert len(written) > 4 * len(model) / 2
    for path, leaf in model.items():
        split = split_axis(path, leaf.shape, n) is not None
        assert leaf.is_fully_replicated != split, path


@pytest.mark.parametrize(
    ("shape", "spec"), [((6, 16, 32), (None, None, "model")), ((6, 8, 4, 4), (None, "model"))]
)
def test_a_write_is_in_place_and_local(mesh, shape, spec):
    """The compiled update gathers nothing, and gives back the memory that it was given."""
    spec = (*spec, *(None,) * (len(shape) - len(spec)))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    room = sharding.DeviceRoom(jax.ShapeDtypeStruct(shape, jnp.float32), layout)
    lead = len(shape) - 2
    part = jax.ShapeDtypeStruct(shape[-2:], jnp.float32, sharding=room._of_part(lead, False))
    lowered = sharding._write.lower(room.whole, part, (0,) * lead, turned=False)
    program = lowered.compile()
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in program.as_text()
    memory = program.memory_analysis()
    shard = 4 * int(np.prod(shape)) // 4
    assert memory.alias_size_in_bytes == memory.output_size_in_bytes == shard
    assert memory.temp_size_in_bytes < shard // 4


@pytest.mark.parametrize("case", CASES[1:5])
def test_forward_on_the_mesh_is_forward_on_one_device(folder_of, mesh, case):
    folder = folder_of(case)
    tokens = np.random.default_rng(0).integers(1, 60, (4, 9))
    run = jax.jit(selfx.forward)
    want = np.asarray(run(read(folder), tokens).logits)
    got = np.asarray(run(read(folder, mesh), sharding.shard_batch(tokens, mesh)).logits)
    assert np.abs(got - want).max() <= 5e-5 * np.abs(want).max()


def test_an_axis_that_does_not_divide_stays_whole(folder_of, way):
    folder, mesh = folder_of("llama-gqa"), selfx.make_mesh(data=1, model=3)
    spread = read(folder, mesh)
    assert_same(spread, read(folder))
    for path, leaf in leaves(spread).items():
        axis, shape = split_axis(path, leaf.shape, parts=3), list(leaf.shape)
        if axis is not None:
            shape[axis] //= 3
        assert {shard.data.shape for shard in leaf.addressable_shards} == {tuple(shape)}, path
    assert spread.blocks.q.w[...].sharding.is_fully_replicated  # 32 wide
    assert not spread.blocks.gate.w[...].sharding.is_fully_replicated  # 48 wide


# Several files


def scatter(folder, n=3, reverse=False):
    """Splits a folder's weights over `n` files, neighbours in the list in different ones."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state, reverse=reverse)
    index = {name: f"part-{i % n}.safetensors" for i, name in enumerate(names)}
    for file in set(index.values()):
        save_file({name: state[name] for name in names if index[name] == file}, folder / file)
    about = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(about)
    (folder / "model.safetensors").unlink()
    return index


@pytest.mark.parametrize("case", CASES)
def test_tensors_may_lie_in_any_file_in_any_order(folder_of, mesh, way, case):
    folder = folder_of(case)
    whole = read(folder)
    index = scatter(folder, reverse=case == "gpt2-plain")
    files_of_layer_1 = {file for name, file in index.items() if ".1." in name}
    assert len(files_of_layer_1) == 3
    assert_same(read(folder), whole)
    assert_same(read(folder, mesh), whole)


def test_tensors_may_start_at_any_byte(folder_of):
    """Old files do not pad their headers: numbers lie across the machine's words."""
    folder = folder_of("llama-gqa")
    whole, file = read(folder), folder / "model.safetensors"
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size])).encode()
    header += b" " * ((1 - len(header)) % 8)
    assert len(header) % 4 == 1
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    assert_same(read(folder), whole)


# Dtypes


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_weights_have_the_dtype_asked_for(folder_of, mesh, monkeypatch, stored, asked):
    """Rounded once, from what is stored; the same on several devices, filled in the other way."""
    folder = folder_of("gpt_neox-rotary")
    state = load_file(folder / "model.safetensors")
    kept = {name: value.astype(stored) for name, value in state.items()}
    save_file(kept, folder / "model.safetensors")
    one = read(folder, dtype=asked)
    monkeypatch.setattr(sharding, "HostRoom", sharding.DeviceRoom)
    several = read(folder, mesh, asked)
    assert_same(one, several)
    name = next(name for name in kept if name.endswith("layers.2.mlp.dense_h_to_4h.weight"))
    want = kept[name].T.astype(asked)
    np.testing.assert_array_equal(np.asarray(one.blocks.up.w[...][2]), want)
    want = kept["gpt_neox.embed_in.weight"].astype(asked)
    np.testing.assert_array_equal(np.asarray(several.embed[...]), want)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(several)} == {asked}


def test_load_takes_the_three_dtypes_and_no_other(tiny_folder):
    for dtype in (jnp.float16, "bfloat16", np.dtype(ml_dtypes.bfloat16), np.float32):
        loaded = selfx.load(tiny_folder, dtype=dtype)
        assert loaded.model.embed.dtype == jnp.dtype(dtype)
    for dtype in ("float64", jnp.float8_e4m3fn):
        with pytest.raises(selfx.SelfxError, match="dtype"):
            selfx.load(tiny_folder, dtype=dtype)


# Memory

MEASURE = """
import gc, sys, jax, jax.numpy as jnp
from pathlib import Path
from selfx.weights.safetensors import folder_config, folder_weights

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(field))

def load(folder):
    return jax.block_until_ready(folder_weights(folder, folder_config(folder), jnp.float32))

big, small = map(Path, sys.argv[1:])
load(small)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS:")
model = load(big)
print(status("VmHWM:") - before - sum(leaf.nbytes for leaf in jax.tree.leaves(model)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux counts the memory")
def test_the_host_holds_one_file_and_a_layer_beside_the_model(write_tiny, tmp_path, tiny_folder):
    """Of 170 MB in 4 files; measured by the kernel, in a process of its own."""
    big = write_tiny(d_model=512, d_ff=2048, n_layers=10, n_heads=8, n_kv_heads=8, d_head=64)
    scatter(big, n=4)
    largest = max(file.stat().st_size for file in big.glob("*.safetensors"))
    layer = 4 * (4 * 512 * 512 + 3 * 512 * 2048)
    command = [sys.executable, "-c", MEASURE, str(big), str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.2 * largest + layer
