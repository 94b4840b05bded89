import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from selfx.explainer.run import Run


@pytest.fixture(scope="session")
def folder_tree():
    """A function: every file under a folder (or the one file) with its bytes."""

    def tree(path):
        if path.is_file():
            return path.read_bytes()
        return {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}

    return tree


@pytest.fixture(scope="session")
def refused():
    """A function: checks that a command ended as bad input must, and returns its message."""

    def check(done, *said):
        assert done.code == 2, done.err
        assert done.out == ""
        assert "Traceback" not in done.err
        message = done.err[done.err.index("selfx: ") :]
        for words in said:
            assert words in message, message
        return message

    return check


@pytest.fixture(scope="session")
def patch_line():
    """A function: one line for `selfx patch`, some of it changed or (None) left out."""

    def line(**changes):
        row = {
            "base_ids": [10, 11, 12],
            "source_ids": [20, 21],
            "layers": [1, 2],
            "base_pos": 2,
            "source_pos": 1,
            "value": "mean",
            **changes,
        }
        return json.dumps({name: value for name, value in row.items() if value is not None}) + "\n"

    return line


@pytest.fixture(scope="session")
def made(planted_trace, tiny_folder, tiny_lm, tmp_path_factory):
    """A trace, and a run on it whose adapters are fresh: nothing needs to be trained."""
    from selfx.explainer.fit import _record
    from selfx.explainer.job import prepare
    from selfx.explainer.mixture import read_mixture
    from selfx.explainer.training import Training

    work = tmp_path_factory.mktemp("made")
    trace = planted_trace(work / "trace", train=12, test=4)
    run, training = Run(work / "run"), Training(rank=2, style="plain")
    mixture = read_mixture([trace], (), tiny_lm.config)
    run.open(_record(tiny_lm, mixture, training), fresh=False)
    run.save_result(prepare(tiny_lm, mixture, training).trained, None, training, tiny_lm)
    return SimpleNamespace(trace=trace, run=run.path, model=tiny_folder)


@pytest.fixture
def started():
    """A function: a command in a process of its own, returned once `begun()` is true of it."""
    children = []

    def start(arguments, begun):
        command = [sys.executable, "-m", "selfx", *map(str, arguments)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        children.append(child)
        patience = time.monotonic() + 240  # a busy machine starts and compiles slowly
        while not begun() and child.poll() is None and time.monotonic() < patience:
            time.sleep(0.01)
        if not begun():
            child.kill()
            pytest.fail(child.communicate(timeout=5)[1].decode())
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.fixture(scope="session")
def few_facts(tmp_path_factory):
    """The shortest facts of our own: a tokenizer of bytes makes long texts."""
    from selfx.data import facts_path

    path = tmp_path_factory.mktemp("data") / "facts.jsonl"
    lines = sorted(facts_path().read_text().splitlines(), key=len)[:60]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
