"""Scripts end as the command does."""

import pytest

from experiments import contrast, whole_path
from experiments.command import command
from selfx.preemption import Preempted


def ended(monkeypatch, main, settings, *arguments):
    monkeypatch.setattr("sys.argv", ["/somewhere/script.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        command(main, settings)
    return caught.value.code


def test_bad_input_is_told_in_a_line(monkeypatch, capsys, tmp_path):
    folders = ("--work", str(tmp_path / "work"), "--keep", str(tmp_path / "keep"))
    model = ("--model", str(tmp_path / "nowhere"))
    asked = ("--task", "input-ablation", "--name", "x", *model, *folders)
    assert ended(monkeypatch, whole_path.main, whole_path.Config, *asked) == 2
    said = capsys.readouterr().err
    assert said.startswith("script: ")
    assert "nowhere" in said
    assert "Traceback" not in said
    assert not (tmp_path / "keep").exists()


@pytest.mark.parametrize(
    ("stop", "code"), [(None, 0), (KeyboardInterrupt(), 130), (Preempted(15), 143)], ids=str
)
def test_a_stop_says_that_it_may_go_on(monkeypatch, capsys, stop, code):
    """The configuration that was named is what the script is run on."""
    given = []

    def main(config):
        given.append(config)
        if stop is not None:
            raise stop

    assert ended(monkeypatch, main, contrast.CONFIGS, "tiny", "--limit", "3") == code
    (config,) = given
    assert (config.model, config.limit) == ("", 3)
    assert ("goes on from here" in capsys.readouterr().err) == (stop is not None)
