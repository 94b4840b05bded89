import json
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
    import jax

    from selfx.explainer import lora
    from selfx.explainer.fit import _record
    from selfx.explainer.run import Training

    work = tmp_path_factory.mktemp("made")
    trace = planted_trace(work / "trace", train=12, test=4)
    run = Run(work / "run")
    run.open(_record(tiny_lm, [trace], Training(rank=2, style="plain")), fresh=False)
    adapters = lora.init(tiny_lm.config, rank=2, alpha=16.0, key=jax.random.key(0))
    run.save_adapter(adapters, 16.0, tiny_lm.name)
    return SimpleNamespace(trace=trace, run=run.path, model=tiny_folder)


@pytest.fixture(scope="session")
def few_facts(tmp_path_factory):
    """The shortest facts of our own: a tokenizer of bytes makes long texts."""
    from selfx.data import facts_path

    path = tmp_path_factory.mktemp("data") / "facts.jsonl"
    lines = sorted(facts_path().read_text().splitlines(), key=len)[:60]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
