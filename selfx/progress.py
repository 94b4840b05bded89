"""Progress on stderr: a bar with time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, int, str], None]
"""`report(done, total, note)`: how far a long piece of work is."""

LINE_EVERY = 15.0
"""Seconds between lines where stderr is no terminal."""


def silent(done: int, total: int, note: str) -> None:
    """Reports nothing."""


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """A function to call as work goes on; the bar or the lines end with the block."""
    console = Console(stderr=True)
    with _bar(title, console) if console.is_terminal else _lines(title) as report:
        yield report


@contextlib.contextmanager
def _bar(title: str, console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


@contextlib.contextmanager
def _lines(title: str) -> Iterator[Report]:
    begun = time.monotonic()
    first: list[tuple[int, float]] = []
    last = [-LINE_EVERY]

    def report(done: int, total: int, note: str) -> None:
        now = time.monotonic() - begun
        first.append((done, now)) if not first else None
        if now - last[0] < LINE_EVERY and done < total:
            return
        last[0] = now
        speed = (done - first[0][0]) / max(now - first[0][1], 1e-9)
        left = f", {(total - done) / speed:.0f} s left" if speed > 0 and done < total else ""
        print(f"{title}: {done}/{total}, {now:.0f} s{left} {note}", file=sys.stderr, flush=True)

    yield report
