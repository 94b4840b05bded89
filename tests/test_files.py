import errno
import json
import os
import stat

import pytest

from selfx import files
from selfx.errors import SelfxError
from selfx.files import atomic, read_json, unwritable, write_json, write_text


class Stop(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    write_json(tmp_path / "a" / "b" / "c.json", {"é": [1, None]})
    assert (tmp_path / "a" / "b" / "c.json").read_text(encoding="utf-8").endswith("}\n")
    assert read_json(tmp_path / "a" / "b" / "c.json") == {"é": [1, None]}
    assert names(tmp_path / "a" / "b") == ["c.json"]


def test_others_may_read_it(tmp_path):
    write_text(tmp_path / "x", "hello")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_nothing_has_the_name_until_all_is_there(tmp_path):
    with atomic(tmp_path / "x") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "x").exists()
        assert temporary.parent == tmp_path  # another disk could not be renamed from
    assert (tmp_path / "x").read_text() == "half"


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, OSError(errno.EIO, "bad sector")])
def test_after_an_error_everything_is_as_it_was(tmp_path, error):
    (tmp_path / "x").write_text("old")

    def interrupted():
        with atomic(tmp_path / "x") as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises((Stop, KeyboardInterrupt, SelfxError)):
        interrupted()
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call, number):
    (tmp_path / "x").write_text("old")

    def full(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(SelfxError, match="disk is full") as caught:
        write_text(tmp_path / "x", "new")
    assert "free some space" in caught.value.hint
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_really_full_disk(small_disk):
    write_text(small_disk / "x", "old")
    with pytest.raises(SelfxError, match="disk is full"):
        write_text(small_disk / "x", "n" * 10_000_000)
    assert (small_disk / "x").read_text() == "old"
    assert names(small_disk) == ["x"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("a file")
    with pytest.raises(SelfxError, match="cannot write .*y: "):
        write_text(tmp_path / "x" / "y", "new")


def test_it_is_durable_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *a, real=real, name=name: (order.append(name), real(*a))[1]
        )
    write_text(tmp_path / "x", "new")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"hello"])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SelfxError, match="x.json cannot be read") as caught:
        read_json(tmp_path / "x.json", hint="write it again")
    assert (caught.value.expected, caught.value.hint) == ("JSON", "write it again")


def test_no_file(tmp_path):
    with pytest.raises(SelfxError, match="no file") as caught:
        read_json(tmp_path / "x.json", hint="write it")
    assert caught.value.hint == "write it"
    with pytest.raises(SelfxError, match="cannot be read"):
        read_json(tmp_path)


def test_values_that_json_lacks_leave_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_the_message_says_why():
    assert "denied" in str(unwritable("x", PermissionError(errno.EACCES, "Permission denied")))
    assert "odd" in str(unwritable("x", OSError("odd")))
