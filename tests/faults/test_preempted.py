"""SIGTERM, as a machine that is taken back sends it: what was done is saved, no step is lost."""

import json
import os
import random
import signal

import numpy as np
import pytest

from selfx.explainer.fit import fit
from selfx.explainer.training import Training
from selfx.features.training.packing import Packed
from selfx.features.training.settings import SaeTraining
from selfx.features.training.train import train
from selfx.preemption import Preempted

EVERY = {"save_every": 7, "log_every": 5}


@pytest.fixture
def ask_at():
    """A function: what tells of progress, and sends SIGTERM when so many steps are done."""

    def unheard(number, frame):
        raise AssertionError("nobody listens for SIGTERM")

    def ask(step):
        def report(done, total, note):
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        return report

    before = signal.signal(signal.SIGTERM, unheard)
    yield ask
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def moment():
    """A step after which the request comes, far from those that are saved or logged anyway."""
    step = random.SystemRandom().choice([2, 8, 11, 12, 17, 18])
    print(f"asked after step {step}")
    return step


def left(run):
    """Every file but those that hold times."""
    timed = {"checkpoints", "tensorboard"}
    found = (p for p in sorted(run.rglob("*")) if p.is_file() and timed.isdisjoint(p.parts))
    return {str(p.relative_to(run)): p.read_bytes() for p in found}


def newest(run):
    return max(int(p.name) for p in (run / "checkpoints").iterdir())


def check(work, folder, ask_at, moment):
    """Asked after any step, it saves that or the next, and ends as if it had not been asked."""
    work(folder / "whole")
    with pytest.raises(Preempted) as caught:
        work(folder / "run", report=ask_at(moment))
    assert caught.value.code == 143
    saved = newest(folder / "run")
    assert saved in (moment, moment + 1)
    assert work(folder / "run").resumed_at == saved
    assert left(folder / "run") == left(folder / "whole")


@pytest.mark.slow
def test_training_an_explainer(made, tiny_lm, tmp_path, ask_at, moment):
    training = Training(epochs=24.0, batch_size=12, rank=2, style="plain")

    def work(out, **more):
        return fit(tiny_lm, [made.trace], out, training, **EVERY, **more)

    check(work, tmp_path, ask_at, moment)


@pytest.mark.slow
def test_training_dictionaries(tiny_lm, tmp_path, ask_at, moment):
    """Also in the middle of what a line of the log is the mean of."""
    tokens = np.random.default_rng(0).integers(6, 200, (40, 16)).astype(np.int32)
    text = Packed(tokens, np.ones(tokens.shape, bool), np.ones(tokens.shape, bool))
    training = SaeTraining(
        layers=(1,), widths=(32,), ks=(2, 4), tokens=24 * 16, batch_size=16, buffer=256, rows=8
    )

    def work(out, **more):
        return train(tiny_lm, text, out, training, **EVERY, **more)

    check(work, tmp_path, ask_at, moment)


def test_the_command_says_so_and_ends_with_the_code_that_shells_expect(started, made, tmp_path):
    run = tmp_path / "run"
    command = (
        *("train", "--data", made.trace, "--explainer", made.model, "--out", run),
        *("--epochs", 100_000, "--batch-size", 12, "--rank", 2, "--style", "plain"),
        *("--save-every", 20),
    )
    child = started(command, lambda: any((run / "checkpoints").glob("[0-9]*[0-9]")))
    child.terminate()
    said = child.communicate(timeout=120)[1].decode()
    assert child.returncode == 143, said
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    steps = [
        json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert max(steps) <= newest(run)
    assert not (run / "adapter").exists()
