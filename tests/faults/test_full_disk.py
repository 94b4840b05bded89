"""A disk that fills up: a clear message, nothing spoilt, and the same command goes on after."""

import errno
import os

import pytest

from selfx import files


@pytest.fixture
def full_disk(monkeypatch):
    """A function: from now on files whose path holds `part` find no room when they are settled."""

    def fill(part):
        real = files._settle

        def settle(temporary, path):
            if part in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(temporary, path)

        monkeypatch.setattr(files, "_settle", settle)

    return fill


def train(made, out, *flags):
    return (
        *("train", "--data", made.trace, "--explainer", made.model, "--out", out),
        *("--epochs", 3, "--batch-size", 12, "--rank", 2, "--style", "plain", "--save-every", 2),
        *flags,
    )


def evaluate(made, out):
    return (
        *("evaluate", "--data", made.trace, "--explainer", made.run, "--out", out),
        *("--max-new-tokens", 1, "--controls", "zero", "--baselines", "majority"),
    )


@pytest.mark.parametrize(
    "part", ["config.json", "metrics.jsonl", "adapter_model", "adapter_config"]
)
def test_while_training(cli, refused, made, tmp_path, full_disk, monkeypatch, part):
    full_disk(part)
    refused(cli(*train(made, tmp_path / "run")), "the disk is full", "free some space")
    assert not list(tmp_path.rglob(f"*{part}*"))
    monkeypatch.undo()
    assert cli(*train(made, tmp_path / "run")).code == 0


@pytest.mark.parametrize("part", [".answers", "predictions.parquet", "scores.json", "report.html"])
def test_while_evaluating(cli, refused, made, tmp_path, full_disk, monkeypatch, part):
    out = tmp_path / "out"
    full_disk(part)
    refused(cli(*evaluate(made, out)), "the disk is full", "free some space")
    assert not [p for p in out.rglob("*") if p.is_file() and part in str(p)]
    monkeypatch.undo()
    assert cli(*evaluate(made, out)).code == 0


def test_while_patching(cli, refused, made, tmp_path, full_disk, patch_line):
    (tmp_path / "pairs.jsonl").write_text(patch_line())
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    full_disk("out.jsonl")
    done = cli("patch", "--model", made.model, "--pairs", tmp_path / "pairs.jsonl", "--out", out)
    refused(done, "the disk is full")
    assert out.read_text() == "before"


@pytest.mark.parametrize("part", ["parquet", "trace.json"])
def test_while_tracing(cli, refused, made, tmp_path, full_disk, monkeypatch, few_facts, part):
    command = (
        *("trace", "activation-patching", "--target", made.model, "--out", tmp_path / "trace"),
        *("--limit", 4, "--data", few_facts),
    )
    full_disk(part)
    refused(cli(*command), "the disk is full", "free some space")
    assert not (tmp_path / "trace" / "trace.json").exists()
    monkeypatch.undo()
    assert cli(*command).code == 0


def test_a_real_one_while_training(cli, refused, made, small_disk, tmp_path):
    """Checkpoints are written by orbax, which has its own way of finding out."""
    refused(cli(*train(made, small_disk / "run")), "the disk is full", "free some space")
    small_disk.resize("64m")
    assert cli(*train(made, small_disk / "run")).code == 0
    assert cli(*train(made, tmp_path / "run")).code == 0
    for name in ("adapter/adapter_model.safetensors", "config.json", "metrics.jsonl"):
        assert (small_disk / "run" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_real_one_while_writing_the_adapter(made, small_disk, tiny_lm):
    import jax

    from selfx.errors import SelfxError
    from selfx.explainer import lora
    from selfx.weights.peft import save_adapter

    big = lora.init(tiny_lm.config, rank=32, alpha=16.0, key=jax.random.key(0))
    with pytest.raises(SelfxError, match="the disk is full"):
        save_adapter(small_disk, {n: (x.a, x.b) for n, x in big.items()}, alpha=16.0, base="tiny")
    assert list(small_disk.iterdir()) == []


def test_a_real_one_while_tracing(cli, refused, made, small_disk, few_facts):
    command = (
        *("trace", "activation-patching", "--target", made.model, "--out", small_disk / "trace"),
        *("--limit", 4, "--data", few_facts),
    )
    (small_disk / "ballast").write_bytes(b"x" * 120 * 1024)
    refused(cli(*command), "the disk is full")
    assert not (small_disk / "trace" / "trace.json").exists()
    (small_disk / "ballast").unlink()
    small_disk.resize("16m")
    assert cli(*command).code == 0
