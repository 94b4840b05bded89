"""A newest checkpoint that is damaged costs the steps since the one before, and nothing else."""

import shutil

import pytest

from selfx.explainer.fit import fit
from selfx.explainer.training import Training

RESULT = ("adapter/adapter_model.safetensors", "config.json", "metrics.jsonl")


class Stop(Exception):
    pass


def stop_after(step):
    def report(done, total, note):
        if done > step:
            raise Stop

    return report


@pytest.fixture(scope="module")
def command(made):
    def words(out):
        return (
            *("train", "--data", made.trace, "--explainer", made.model, "--out", out),
            *("--epochs", 12, "--batch-size", 12, "--rank", 2, "--style", "plain"),
            *("--save-every", 4),
        )

    return words


@pytest.fixture(scope="module")
def runs(made, tiny_folder, tmp_path_factory):
    """A run of 12 steps, and one that was killed after the checkpoint of step 8."""
    import selfx

    folder = tmp_path_factory.mktemp("runs")
    lm = selfx.load(str(tiny_folder))
    training = Training(epochs=12.0, batch_size=12, rank=2, style="plain")
    fit(lm, [made.trace], folder / "whole", training, save_every=4)
    with pytest.raises(Stop):
        fit(lm, [made.trace], folder / "cut", training, save_every=4, report=stop_after(8))
    assert sorted(p.name for p in (folder / "cut" / "checkpoints").iterdir()) == ["4", "8"]
    return folder


def files(step):
    return sorted((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flipped(step):
    """One bit in the middle of the arrays."""
    file = files(step)[-1]
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)


def cut(step):
    for file in files(step):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def missing(step):
    files(step)[-1].unlink()


def garbage(step):
    (step / "_CHECKPOINT_METADATA").write_bytes(b"\x00\xff not JSON")


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        missing,
        pytest.param(cut, marks=pytest.mark.slow),
        pytest.param(garbage, marks=pytest.mark.slow),
        pytest.param(empty, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("default")
def test_it_goes_on_from_the_one_before(cli, command, runs, tmp_path, damage, recwarn):
    run = shutil.copytree(runs / "cut", tmp_path / "run")
    damage(run / "checkpoints" / "8")
    done = cli(*command(run))
    assert done.code == 0, done.err
    (said,) = [str(w.message) for w in recwarn if "cannot be read" in str(w.message)]
    assert "step 8" in said
    assert "goes on from step 4" in said
    for name in RESULT:
        assert (run / name).read_bytes() == (runs / "whole" / name).read_bytes(), name
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["12", "8", "damaged-8"]


def test_where_both_are_damaged_the_command_says_what_to_do(cli, command, runs, tmp_path):
    run = shutil.copytree(runs / "cut", tmp_path / "run")
    for step in ("4", "8"):
        flipped(run / "checkpoints" / step)
    done = cli(*command(run))
    assert done.code == 2
    assert "cannot be read" in done.err
    assert "--fresh" in done.err
    assert cli(*command(run), "--fresh").code == 0
    for name in RESULT:
        assert (run / name).read_bytes() == (runs / "whole" / name).read_bytes(), name
