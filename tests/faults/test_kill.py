"""SIGKILL at a random moment, then the same command: the same files as if nothing had happened."""

import random
import time

import pytest

RESULT = ("adapter/adapter_model.safetensors", "config.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def moments():
    """Random, and told by the failing test's output."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments drawn with seed {seed}")
    return random.Random(seed)


@pytest.fixture
def killed(started):
    """A function: a command in a process of its own, killed `delay` seconds after `begun()`."""

    def run(arguments, begun, delay):
        child = started(arguments, begun)
        time.sleep(delay)
        child.kill()
        child.communicate()

    return run


def steps(run):
    """The checkpoints that have their final name."""
    return [p for p in (run / "checkpoints").glob("*") if p.name.isdigit()]


def test_training(cli, killed, made, moments, tmp_path):
    def command(out):
        return (
            *("train", "--data", made.trace, "--explainer", made.model, "--out", out),
            *("--epochs", 24, "--batch-size", 12, "--rank", 2, "--style", "plain"),
            *("--save-every", 3),
        )

    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli(*command(whole)).code == 0
    killed(command(run), (run / "config.json").exists, moments.uniform(0, 2))
    before = max((int(p.name) for p in steps(run)), default=0)
    more = lambda: any(int(p.name) > before for p in steps(run))  # noqa: E731
    killed(command(run), more, moments.uniform(0, 1.5))
    done = cli(*command(run))
    assert done.code == 0, done.err
    for name in RESULT:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def test_evaluating(cli, killed, made, moments, tmp_path):
    def command(out):
        return (
            *("evaluate", "--data", made.trace, "--explainer", made.run, "--out", out),
            *("--max-new-tokens", 4),
        )

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli(*command(whole)).code == 0
    answers = lambda: len(list((out / ".answers").glob("*")))  # noqa: E731
    killed(command(out), answers, moments.uniform(0, 0.5))
    before = answers()
    more = lambda: answers() > before or (out / "scores.json").exists()  # noqa: E731
    killed(command(out), more, moments.uniform(0, 0.5))
    done = cli(*command(out))
    assert done.code == 0, done.err
    for name in ("scores.json", "predictions.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (out / ".answers").exists()


def test_interrupted_from_the_keyboard(cli, made, tmp_path, monkeypatch):
    """No trace of Python, the code that shells expect, and what to do next."""
    from selfx.explainer import fit

    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "make_step", interrupted)
    done = cli(
        *("train", "--data", made.trace, "--explainer", made.model, "--out", tmp_path / "run"),
        *("--rank", 2),
    )
    assert done.code == 130
    assert done.out == ""
    assert "the same command goes on" in done.err
    assert "Traceback" not in done.err
