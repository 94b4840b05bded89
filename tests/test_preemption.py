"""Signals become a flag inside the block, and are what they were outside of it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from selfx.preemption import Preempted, preemptible


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def as_before():
    """Handlers are those of the start, whatever the test does."""
    # A job in the background ignores interrupts, and so would everything that these tests start.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    after = {n: signal.getsignal(n) for n in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.signal(signal.SIGINT, ignored)
    assert after == before


def work(number, steps):
    """Five steps, in the third of which a signal comes."""
    with preemptible() as asked:
        assert not asked()
        for step in range(5):
            if step == 2:
                send(number)
            steps.append(step)
            if asked():
                raise Preempted


def sent(*numbers, then=lambda asked: None):
    """Nothing but signals, all inside the block."""
    with preemptible() as asked:
        for number in numbers:
            send(number)
            assert asked()
        then(asked)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises_the_flag_and_leaves_the_work_alone(number, capfd):
    steps = []
    with pytest.raises(Preempted) as caught:
        work(number, steps)
    assert steps == [0, 1, 2]
    assert caught.value.signal == number
    assert caught.value.code == 128 + number
    assert signal.Signals(number).name in str(caught.value)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert "saving" in capfd.readouterr().err


def test_a_second_interrupt_does_not_wait():
    reached = []
    with pytest.raises(KeyboardInterrupt) as caught:
        sent(signal.SIGINT, signal.SIGINT, then=reached.append)
    assert not isinstance(caught.value, Preempted)
    assert reached == []


def test_terminating_again_and_again_changes_nothing():
    seen = []
    with pytest.raises(Preempted) as caught:
        sent(*[signal.SIGTERM] * 3, signal.SIGINT, then=lambda asked: seen.append(asked.signal))
    assert seen == [signal.SIGTERM]
    assert caught.value.code == 143


def test_a_request_that_comes_too_late_is_not_lost():
    with pytest.raises(Preempted):
        sent(signal.SIGTERM)


def test_errors_of_the_work_come_through():
    with pytest.raises(ZeroDivisionError):
        sent(signal.SIGTERM, then=lambda asked: 1 / 0)


def test_nothing_happens_without_a_signal():
    inside = []
    with preemptible() as asked:
        inside = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
        assert not asked()
    assert inside == [asked.hear, asked.hear]


def test_in_another_thread_it_does_nothing():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with preemptible() as asked:
            seen.append((asked(), signal.getsignal(signal.SIGTERM) == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_what_the_process_was_started_to_ignore_stays_ignored():
    """As a shell starts `command &` without job control, or nohup does."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with preemptible() as asked:
            send(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_ends_with_the_code_that_shells_expect(number, code):
    program = f"""
import dataclasses, os, sys
import selfx.cli
from selfx.preemption import Preempted, preemptible

@dataclasses.dataclass(frozen=True)
class Work:
    "Works."
    json: bool = False
    def run(self):
        with preemptible() as asked:
            os.kill(os.getpid(), {int(number)})
            if asked():
                raise Preempted

selfx.cli.COMMANDS["work"] = Work
sys.exit(selfx.cli.main(["work"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "the same command goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
