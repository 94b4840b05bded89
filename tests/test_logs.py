"""What the logs hold is read back by other readers: protobuf's own decoder, and TensorBoard's."""

import struct
import sys
import types

import pytest

from selfx.errors import SelfxError
from selfx.logs import Logs


@pytest.fixture(scope="module")
def event():
    """The class `Event` as TensorBoard's event.proto and summary.proto describe what is used."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="e.proto", package="t", syntax="proto3")
    kinds = {"double": 1, "float": 2, "int64": 3, "int32": 5, "string": 9, "message": 11}
    for name, fields in {
        "Value": [("tag", 1, "string", ""), ("simple_value", 2, "float", "")],
        "Summary": [("value", 1, "message", "*Value")],
        "SessionLog": [("status", 1, "int32", "")],
        "Event": [
            ("wall_time", 1, "double", ""),
            ("step", 2, "int64", ""),
            ("file_version", 3, "string", ""),
            ("summary", 5, "message", "Summary"),
            ("session_log", 7, "message", "SessionLog"),
        ],
    }.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            made = message.field.add(name=field, number=number, type=kinds[kind])
            made.label = 3 if of.startswith("*") else 1
            if of:
                made.type_name = f".t.{of.lstrip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def crc32c(data):
    """CRC-32C by dividing polynomials, bit by bit: slow, and as RFC 3720 defines it."""
    rest = 0
    bits = [byte >> i & 1 for byte in data for i in range(8)] + [0] * 32
    for i, bit in enumerate(bits):
        rest = rest << 1 | bit ^ (i < 32)
        rest ^= 0x11EDC6F41 if rest >> 32 else 0
    return int(f"{rest ^ 0xFFFFFFFF:032b}"[::-1], 2)


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_checksum_of_these_tests():
    """RFC 3720, B.4; and the value that every implementation quotes."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def records(file):
    """The data of every record, all checksums checked."""
    whole, found = file.read_bytes(), []
    while whole:
        (length,), (crc,) = struct.unpack("<Q", whole[:8]), struct.unpack("<I", whole[8:12])
        assert crc == masked(whole[:8])
        data, rest = whole[12 : 12 + length], whole[12 + length :]
        assert struct.unpack("<I", rest[:4]) == (masked(data),)
        found.append(data)
        whole = rest[4:]
    return found


def events(folder, event):
    files = sorted((folder / "tensorboard").iterdir())
    return [[event.FromString(data) for data in records(file)] for file in files]


def write(folder, steps, **more):
    with Logs(folder, **more) as logs:
        for step in steps:
            logs(step, {"loss": step / 8, "held out/größe": -step})


def test_every_value_is_there_with_its_step(tmp_path, event):
    write(tmp_path, [1, 127, 128, 300_000])
    ((head, start, *values),) = events(tmp_path, event)
    assert (head.file_version, head.step) == ("brain.Event:2", 0)
    assert (start.session_log.status, start.step) == (1, 1)
    assert [v.step for v in values] == [1, 127, 128, 300_000]
    for found in values:
        expected = {"loss": found.step / 8, "held out/größe": -found.step}
        assert {v.tag: v.simple_value for v in found.summary.value} == expected
    times = [e.wall_time for e in (head, start, *values)]
    assert times == sorted(times)
    assert 1.7e9 < times[0] < 1e10


def test_values_are_on_the_disk_when_the_call_returns(tmp_path, event):
    logs = Logs(tmp_path)
    logs(1, {"loss": 0.5})
    assert [e.step for e in events(tmp_path, event)[0]] == [0, 1, 1]


def test_each_session_says_from_where_the_ones_before_are_void(tmp_path, event):
    write(tmp_path, range(1, 9))
    write(tmp_path, range(5, 11))
    first, second = events(tmp_path, event)
    assert len(first) == 10
    assert (second[1].session_log.status, second[1].step) == (1, 5)


def test_without_values_there_is_no_file(tmp_path):
    """A run that is finished already writes nothing when it is asked for again."""
    with Logs(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none(tmp_path, event):
    with Logs(tmp_path) as logs:
        logs(1, {"loss": float("nan"), "norm": float("inf")})
    loss, norm = events(tmp_path, event)[0][2].summary.value
    assert loss.simple_value != loss.simple_value
    assert norm.simple_value == float("inf")


def test_a_full_disk_is_told_and_what_was_there_can_be_read(small_disk, event):
    write(small_disk, [1])
    (small_disk / "ballast").write_bytes(b"x" * 120 * 1024)
    with pytest.raises(SelfxError, match="the disk is full"):
        write(small_disk, range(2, 2000))
    (small_disk / "ballast").unlink()
    write(small_disk, [2, 3])
    assert [e.step for e in events(small_disk, event)[0]] == [0, 1, 1]
    assert [e.step for e in events(small_disk, event)[-1]] == [0, 2, 2, 3]


def test_tensorboard_shows_no_step_twice(tmp_path):
    """By its own reader, where it is installed."""
    name = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(name).EventAccumulator
    write(tmp_path, range(1, 31))
    with Logs(tmp_path) as logs:
        for step in range(21, 26):
            logs(step, {"loss": 100.0 + step})
    read = accumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["held out/größe", "loss"]
    expected = [(s, s / 8) for s in range(1, 21)] + [(s, 100.0 + s) for s in range(21, 26)]
    assert [(e.step, e.value) for e in read.Scalars("loss")] == expected


# Weights & Biases: a stand-in takes down what it is told


class Wandb(types.ModuleType):
    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.started, self.lines, self.ended = [], [], []

    def init(self, **settings):
        self.started.append(settings)
        if settings["project"] == "closed":
            raise self.Error("no key")
        return self

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self, exit_code):
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_the_same_and_a_resumed_run_keeps_its_id(tmp_path, wandb):
    run = tmp_path / "my-run"
    write(run, [1, 2], wandb="project", config={"rank": 2})
    with pytest.raises(ValueError, match="could not convert"):
        failing(run)
    first, second = wandb.started
    assert first["project"] == "project"
    assert first["config"] == {"rank": 2}
    assert (first["dir"], first["name"]) == (str(run), "my-run")
    assert first["id"] == second["id"] == (run / "wandb" / "id").read_text()
    assert first["resume"] == "allow"
    assert [step for step, _ in wandb.lines] == [1, 2, 3]
    assert wandb.lines[2][1] == {"loss": 1.0}
    assert wandb.ended == [0, 1]


def failing(run):
    with Logs(run, wandb="project") as logs:
        logs(3, {"loss": 1})
        logs(4, {"loss": "no number"})


def test_another_run_has_another_id(tmp_path, wandb):
    for name in ("a", "b"):
        write(tmp_path / name, [1], wandb="project")
    assert wandb.started[0]["id"] != wandb.started[1]["id"]


def test_wandb_is_not_touched_unless_asked_for(tmp_path, wandb):
    write(tmp_path, [1])
    assert wandb.started == []
    assert not (tmp_path / "wandb").exists()


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SelfxError, match="wandb") as caught:
        Logs(tmp_path, wandb="project")
    assert caught.value.hint == "pip install wandb"


def test_wandb_that_lets_nobody_in(tmp_path, wandb):
    with pytest.raises(SelfxError, match="no key") as caught:
        Logs(tmp_path, wandb="closed")
    assert "WANDB_MODE=offline" in caught.value.hint


def test_fresh_forgets_the_logs(tmp_path, wandb):
    from selfx.explainer.run import Run

    run = Run(tmp_path / "run")
    record = {"explainer_hash": "", "training": {}}
    run.open(record, fresh=False)
    write(run.path, [1], wandb="project")
    run.open(record, fresh=True)
    assert [p.name for p in run.path.iterdir()] == ["config.json"]
