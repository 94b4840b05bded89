"""How a command ends: its work done, or a message and an exit code in place of a stack trace."""

from __future__ import annotations

import sys
from collections.abc import Callable

from selfx.errors import SelfxError
from selfx.preemption import Preempted


def ending(name: str, work: Callable[[], int]) -> int:
    """Returns the exit code of some work: its own, or that of what stopped it.

    2: bad input; 130: interrupted; 143: asked to stop by SIGTERM.
    """
    try:
        return work()
    except SelfxError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"{name}: stopped; the same command goes on from here", file=sys.stderr)
        return stopped.code if isinstance(stopped, Preempted) else 130
    except BrokenPipeError:
        return 0
