"""Stopping a trace anywhere and going on: the files must be those of a run that never stopped."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.files import read_json
from selfx.tasks import blocks as B
from selfx.tasks import store
from selfx.tasks.balance import quota
from selfx.tasks.blocks import Block, Plan, collect
from selfx.tasks.schema import PATCHING, SCHEMAS


class Killed(BaseException):
    """Not an Exception, as a kill is none: nothing may catch it."""


def make_block(number):
    rng = np.random.default_rng([7, number])
    rows = [
        {
            "layer": [0, 1],
            "input_tokens": ["a", "Ġb"],
            "original_continuation": ["x"],
            "ablated_continuation": ["y"],
            "is_different": bool(index % 3 == 0),
            "patch_position": {
                "intervention_vector": rng.standard_normal(8).astype(np.float32),
                "orig_pos": 1,
                "orig_text_token": "Ġb",
            },
            "token_type": "last",
            "id": f"{int(rng.integers(400))}",
            "group": "g",
            "cell": f"cell {index % 4}",
            "split": "test" if index % 4 == 1 else "train",
            "changed": bool(index % 3 == 0),
        }
        for index in range(20)
    ]
    return Block(rows, dropped=number)


def make_plan(block=make_block, limit=60, **settings):
    return Plan(
        task=PATCHING,
        target="none",
        settings={"target_hash": "0", "seed": 7, "limit": limit, **settings},
        schema=SCHEMAS[PATCHING],
        block=block,
        most_blocks=12,
        quota=quota(limit, 0.25, 4),
        details=lambda: {"facts": "none"},
    )


def silent(*_):
    pass


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(tmp_path):
    """The files of a run that nobody stopped."""
    collect(make_plan(), tmp_path / "whole", silent)
    return content(tmp_path / "whole")


def test_a_trace_is_whole(tmp_path, whole):
    assert set(whole) == {"train-00000.parquet", "test-00000.parquet", "trace.json"}
    record = store.load_trace(tmp_path / "whole")
    assert record["counts"] == {"train": 45, "test": 15}
    assert record["balance"]["dropped"] == sum(range(blocks_used(record)))
    examples = store.load_examples(tmp_path / "whole", "train")
    assert len({example.id for example in examples}) == 45


def blocks_used(record):
    """How many blocks of at most 20 rows the experiments came from."""
    kinds = record["balance"]["experiments"]
    n = sum(kinds[split][name] for split in kinds for name in ("changed", "unchanged"))
    seen, used = set(), 0
    while len(seen) < n:
        seen |= {row["id"] for row in make_block(used).rows}
        used += 1
    return used


@pytest.mark.parametrize("stop", range(5))
def test_a_kill_inside_a_block(tmp_path, whole, stop):
    made = []

    def block(number):
        if number == stop and stop not in made:
            made.append(number)
            raise Killed
        made.append(number)
        return make_block(number)

    out = tmp_path / "out"
    with pytest.raises(Killed):
        collect(make_plan(block), out, silent)
    collect(make_plan(block), out, silent)
    assert content(out) == whole
    assert sorted(made) == sorted([*range(max(made) + 1), stop])


@pytest.mark.parametrize("step", ["write_table", "write_shards", "write_json", "rmtree"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_at_any_write(tmp_path, whole, monkeypatch, step, when, nth):
    home = {"write_table": B.pq, "rmtree": B.shutil}.get(step, B)
    real, calls = getattr(home, step), []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth and when == "before":
            raise Killed
        found = real(*args, **kwargs)
        if len(calls) == nth:
            raise Killed
        return found

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(home, step, stopping)
        with contextlib.suppress(Killed):
            collect(make_plan(), out, silent)
    collect(make_plan(), out, silent)
    assert content(out) == whole


CHILD = """
import sys, time
sys.path.insert(0, {folder!r})
import test_blocks as T
def slow(number):
    print(number, flush=True)
    time.sleep(0.05)
    return T.make_block(number)
from pathlib import Path
T.collect(T.make_plan(slow), Path({out!r}), T.silent)
"""


def test_real_kills(tmp_path, whole):
    out = tmp_path / "out"
    script = textwrap.dedent(CHILD).format(folder=os.path.dirname(__file__), out=str(out))
    out.mkdir()
    for wait in (0.03, 0.12):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    (out / ".train-00000.parquet.x1y2").write_text("what a kill while writing leaves")
    collect(make_plan(), out, silent)
    assert content(out) == whole


def test_a_finished_trace_is_left_alone(tmp_path, whole):
    notes = []

    def never(number):
        raise AssertionError("a finished trace made a block")

    record = collect(make_plan(never), tmp_path / "whole", lambda *call: notes.append(call))
    assert record == read_json(tmp_path / "whole" / "trace.json")
    assert "already finished" in notes[-1][2]
    assert content(tmp_path / "whole") == whole


def test_other_settings_are_refused_and_named(tmp_path, whole):
    with pytest.raises(SelfxError, match="limit=80") as error:
        collect(make_plan(limit=80), tmp_path / "whole", silent)
    assert "limit=60" in error.value.expected
    assert "--out" in error.value.hint
    assert content(tmp_path / "whole") == whole


def test_other_settings_are_refused_halfway_too(tmp_path):
    def block(number):
        raise Killed

    with pytest.raises(Killed):
        collect(make_plan(block), tmp_path, silent)
    with pytest.raises(SelfxError, match="depth=2"):
        collect(make_plan(depth=2), tmp_path, silent)
    with pytest.raises(SelfxError, match="not finished"):
        store.load_examples(tmp_path, "train")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(SelfxError, match="something that is not a trace"):
        collect(make_plan(), tmp_path, silent)
    assert content(tmp_path) == {"thesis.tex": b"all of it"}
    with pytest.raises(SelfxError, match="something that is not a trace"):
        collect(make_plan(), tmp_path / "thesis.tex", silent)


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(B.pq, "write_table", full)
        with pytest.raises(SelfxError, match="the disk is full"):
            collect(make_plan(), tmp_path / "out", silent)
    collect(make_plan(), tmp_path / "out", silent)


def test_too_few_candidates_leave_a_smaller_balanced_trace(tmp_path):
    record = collect(make_plan(limit=1000), tmp_path / "out", silent)
    assert 100 < sum(record["counts"].values()) < 300
    kept = record["balance"]["kept"]["train"]
    assert kept["changed"] + kept["unchanged"] == record["counts"]["train"]


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(SelfxError, match="no example in 36 experiments"):
        collect(make_plan(lambda number: Block([], 3)), tmp_path / "out", silent)
    assert not list(tmp_path.glob("out/*.parquet"))


def test_many_rows_take_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROWS_A_SHARD", 20)
    collect(make_plan(), tmp_path / "out", silent)
    names = sorted(path.name for path in (tmp_path / "out").glob("train-*"))
    assert names == [f"train-{n:05d}.parquet" for n in range(3)]
    assert len(store.load_examples(tmp_path / "out", "train")) == 45
