"""Pickles are read as data: what torch wrote comes out, and nothing in any file is ever run."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.dictionaries.load import load_sae
from selfx.features.dictionaries.unpickle import read_pickle, read_state

GOLDEN = Path(__file__).parent / "golden"
STORED = GOLDEN / "dictionary_learning_AutoEncoder" / "ae.pt"


class Hostile:
    """Pickles to a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def archive(path, pickled, members=(), compression=zipfile.ZIP_STORED):
    """A zip as torch lays it out."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("sae/data.pkl", pickled)
        file.writestr("sae/byteorder", "little")
        for name, data in dict(members).items():
            file.writestr(f"sae/data/{name}", data)
    return path


def tensor(size, stride, offset=0, count=4, kind="FloatStorage", key="0"):
    """A pickle of one tensor, byte for byte of torch's form."""
    out = io.BytesIO()
    out.write(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((")
    out.write(b"X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\n")
    out.write(b"X" + struct.pack("<I", len(key)) + key.encode())
    out.write(b"X\x03\x00\x00\x00cpuJ" + struct.pack("<i", count) + b"tQ")
    out.write(b"J" + struct.pack("<i", offset))
    for numbers in (size, stride):
        out.write(b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t")
    out.write(b"\x89ccollections\nOrderedDict\n)RtR.")
    return out.getvalue()


NUMBERS = np.arange(4, dtype=np.float32)


def test_what_torch_wrote_comes_out():
    state = read_state(STORED)
    assert {name: part.shape for name, part in state.items()} == {
        "bias": (12,),
        "encoder.weight": (24, 12),
        "encoder.bias": (24,),
        "decoder.weight": (12, 24),
    }
    assert all(part.dtype == np.float32 for part in state.values())


@pytest.mark.parametrize(
    ("size", "stride", "offset", "wanted"),
    [
        ((2, 2), (2, 1), 0, [[0, 1], [2, 3]]),
        ((2, 2), (1, 2), 0, [[0, 2], [1, 3]]),
        ((2,), (2,), 1, [1, 3]),
        ((), (), 3, 3),
        ((0, 3), (3, 1), 0, np.zeros((0, 3))),
    ],
)
def test_views_are_read_as_views(tmp_path, size, stride, offset, wanted):
    path = archive(tmp_path / "a.pt", tensor(size, stride, offset), {"0": NUMBERS.tobytes()})
    np.testing.assert_array_equal(read_pickle(path), wanted)


def test_bfloat16_and_big_endian_are_read(tmp_path):
    import ml_dtypes

    half = np.array([1.5, -2, 0, 3], ml_dtypes.bfloat16)
    pickled = tensor((4,), (1,), kind="BFloat16Storage")
    path = archive(tmp_path / "a.pt", pickled, {"0": half.tobytes()})
    np.testing.assert_array_equal(read_pickle(path).astype(np.float32), [1.5, -2, 0, 3])
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("sae/data.pkl", tensor((4,), (1,)))
        file.writestr("sae/byteorder", "big")
        file.writestr("sae/data/0", NUMBERS.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_pickle(tmp_path / "b.pt"), NUMBERS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_and_numpy_come_out(tmp_path, protocol):
    value = {
        "rows": [((3, 5), {"label": "x", "score": np.float64(0.5)})],
        "whole": np.arange(6).reshape(2, 3),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "words": np.array(["ab", "c"]),
        "kinds": {1, 2},
        "bytes": b"\xff\x00",
        "none": None,
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    found = read_pickle(path)
    assert found["rows"] == value["rows"]
    assert (found["kinds"], found["bytes"], found["none"]) == ({1, 2}, b"\xff\x00", None)
    for name in ("whole", "turned", "words"):
        np.testing.assert_array_equal(found[name], value[name])
        assert found[name].dtype == value[name].dtype


def test_a_file_from_before_zip_is_read(tmp_path):
    """Magic number, protocol, system, object, keys, then each storage with its length before it."""
    out = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        out.write(pickle.dumps(part, protocol=2))
    body = tensor((2, 2), (2, 1))
    out.write(body.replace(b"tQ", b"NtQ", 1))  # a sixth part: views are none
    out.write(pickle.dumps(["0"], protocol=2) + struct.pack("<q", 4) + NUMBERS.tobytes())
    path = tmp_path / "a.pt"
    path.write_bytes(out.getvalue())
    np.testing.assert_array_equal(read_pickle(path), [[0, 1], [2, 3]])


MARKER = "it-ran"


def calls():
    import os
    import subprocess

    return {
        "system": Hostile(os.system, f"touch {MARKER}"),
        "popen": Hostile(subprocess.Popen, ["touch", MARKER]),
        "exec": Hostile(exec, f"open({MARKER!r}, 'w')"),
        "eval": Hostile(eval, f"open({MARKER!r}, 'w')"),
        "open": Hostile(open, MARKER, "w"),
        "getattr": Hostile(getattr, dict, "clear"),
        "import": Hostile(__import__, "os"),
        "path": Hostile(Path, MARKER),
        "nested": Hostile(pickle.loads, pickle.dumps(Hostile(os.system, f"touch {MARKER}"))),
        "load": Hostile(np.load, MARKER),
        "objects": np.array([Hostile(os.system, f"touch {MARKER}")], dtype=object),
    }


@pytest.mark.parametrize("name", sorted(calls()))
@pytest.mark.parametrize("form", ["plain", "archive"])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"W_enc": calls()[name]})
    path = tmp_path / "ae.pt"
    if form == "plain":
        path.write_bytes(pickled)
    else:
        archive(path, pickled)
    with pytest.raises(SelfxError, match="is not only data: it asks for") as raised:
        load_sae(path)
    assert "safetensors" in raised.value.hint
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch it-ran'\ntR.",
        b"(S'touch it-ran'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch it-ran\x85R.",  # STACK_GLOBAL
        b"c__builtin__\ngetattr\n(c__builtin__\nset\nS'__class__'\ntR.",
        b"ccollections\nOrderedDict.__init__\n.",
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        b"\x80\x02cselfx.features.dictionaries.rebuild\nCall\n.",
    ],
    ids=["global", "inst", "stack-global", "getattr", "dotted", "dotted-stack", "own-module"],
)
def test_no_opcode_reaches_a_function(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(code)
    with pytest.raises(SelfxError, match="asks for"):
        read_pickle(path)
    assert not (tmp_path / MARKER).exists()


def test_a_file_cannot_change_what_the_next_one_meets(tmp_path):
    """BUILD sets attributes of what stands on the stack: of no stand-in is there any to set."""
    path = tmp_path / "a.pkl"
    for state in (b"}S'_function'\nN(ds", b"N}S'_function'\nNs\x86"):
        path.write_bytes(b"\x80\x02ccollections\nOrderedDict\n" + state + b"b.")
        with pytest.raises(SelfxError):
            read_pickle(path)
    assert read_state(STORED)


@pytest.mark.parametrize(
    ("pickled", "what"),
    [
        (tensor((5,), (1,)), "past the end"),
        (tensor((2, 2), (3, 1)), "past the end by strides"),
        (tensor((2,), (-1,), 3), "backwards"),
        (tensor((2,), (1,), -1), "before the start"),
        (tensor((1 << 20, 1 << 20), (0, 0)), "a trillion numbers of four"),
        (tensor((2,), (1,), key="9"), "of a storage that is not there"),
        (tensor((2,), (1,), kind="EvilStorage"), "of no known kind"),
        (tensor((2,), (1, 1)), "of as many sizes as not strides"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, pickled, what):
    path = archive(tmp_path / "a.pt", pickled, {"0": NUMBERS.tobytes()})
    with pytest.raises(SelfxError):
        read_pickle(path)


def test_a_packed_archive_is_refused(tmp_path):
    data = {"0": NUMBERS.tobytes()}
    path = archive(tmp_path / "a.pt", tensor((4,), (1,)), data, zipfile.ZIP_DEFLATED)
    with pytest.raises(SelfxError, match="compressed"):
        read_pickle(path)


def test_lists_that_hold_each_other_end(tmp_path):
    """A few dozen bytes that would unfold to 2**60 items, and one that holds itself."""
    doubled = b"\x80\x02]" + b"q\x00" + b"".join(b"]q\x01(h\x00h\x00eq\x00" for _ in range(60))
    (tmp_path / "a.pkl").write_bytes(doubled + b".")
    assert isinstance(read_pickle(tmp_path / "a.pkl"), list)
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02]q\x00h\x00a.")
    assert read_pickle(tmp_path / "b.pkl") == [None]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\x03\x04junk",
        b"\x00" * 99,
    ],
    ids=["empty", "cut", "lfs", "zip", "zeros"],
)
def test_what_is_no_pickle_says_so(tmp_path, data):
    path = tmp_path / "ae.pt"
    path.write_bytes(data)
    with pytest.raises(SelfxError, match="cannot be read"):
        read_pickle(path)


def test_a_file_that_is_cut_says_so(tmp_path):
    whole = STORED.read_bytes()
    path = tmp_path / "ae.pt"
    for size in (len(whole) // 3, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(SelfxError, match="cannot be read"):
            read_pickle(path)


def test_a_state_of_something_else_says_so(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SelfxError, match="holds a list"):
        read_state(path)
