import pytest

from selfx import progress as shown
from selfx.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless `clock.now` is set."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(shown, "time", made)
    return made


def test_lines_on_stderr_now_and_then_with_the_time_left(capsys, clock):
    with progress("training") as report:
        for done in range(1, 101):
            clock.now += 1
            report(done, 100, "loss 1.0")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 8  # at 1, 16, 31, 46, 61, 76, 91 and 100
    assert lines[0] == "training: 1/100, 1 s loss 1.0"
    assert lines[1] == "training: 16/100, 16 s, 84 s left loss 1.0"
    assert lines[-1] == "training: 100/100, 100 s loss 1.0"


def test_the_time_left_counts_from_where_a_resumed_run_began(capsys, clock):
    with progress("training") as report:
        report(900, 1000, "")
        clock.now += 20
        report(910, 1000, "")
    assert "180 s left" in capsys.readouterr().err


def test_silence_is_no_report():
    shown.silent(1, 2, "")
