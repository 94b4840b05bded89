"""Being asked to stop: a machine that is taken back sends SIGTERM, a person presses Ctrl-C.

A loop inside `preemptible` looks at a flag between its steps, saves and leaves, so that no step is
lost and nothing is cut in two.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks."""


class Preempted(KeyboardInterrupt):
    """Work was stopped on request, everything saved: the same command goes on from there.

    Attributes:
      signal: what asked.
    """

    def __init__(self, signal: int = signal.SIGINT):
        super().__init__(signal)
        self.signal = int(signal)

    def __str__(self) -> str:
        return f"stopped by {_name(self.signal)}"

    @property
    def code(self) -> int:
        """The exit code that shells expect: 143 after SIGTERM, 130 after SIGINT."""
        return 128 + self.signal


class Asked:
    """Whether this process was asked to stop.

    Attributes:
      signal: the first that asked; 0 while none has.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._interrupts = 0

    def __call__(self) -> bool:
        """Whether to save and leave."""
        return self.signal != 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Takes note; the second SIGINT interrupts at once.

        Raises:
          KeyboardInterrupt: it is the second SIGINT.
        """
        self.signal = self.signal or number
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts > 1:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):  # print is not safe where it may be interrupted itself
            os.write(2, f"selfx: {_name(number)}, saving{_again(number)}\n".encode())


@contextlib.contextmanager
def preemptible() -> Iterator[Asked]:
    """A flag to look at between two steps: whether SIGTERM or SIGINT has come since.

    On the way out the signals do what they did before. A request that came too late to be seen is
    not lost: the block then ends in `Preempted` by itself. Signals that the process was started to
    ignore stay ignored; outside the main thread, which alone receives signals, the flag stays down.

    Raises:
      Preempted: it was asked and the block has ended, with a Preempted of its own or without.
    """
    asked = Asked()
    before = _listen(asked)
    try:
        yield asked
    except Preempted as stopped:
        stopped.signal = asked.signal or stopped.signal
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked():
        raise Preempted(asked.signal)


def _listen(asked: Asked) -> dict[int, Any]:
    """Puts handlers in; those that were there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {int(number): signal.getsignal(number) for number in SIGNALS}
    # None: set outside Python, and not to be had back from here.
    ours = {n: was for n, was in before.items() if was is not None and was != signal.SIG_IGN}
    for number in ours:
        signal.signal(number, asked.hear)
    return ours


def _name(number: int) -> str:
    return signal.Signals(number).name


def _again(number: int) -> str:
    return "; once more to stop at once" if number == signal.SIGINT else ""
