"""From requests to questions: every kind of question by one entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from selfx.errors import SelfxError
from selfx.tasks.now import of_ablation, of_features, of_patching, of_reading, of_trace
from selfx.tasks.now.asked import Asked, Desk, Kind, Truth
from selfx.tasks.now.forms import tasks_of
from selfx.tasks.now.request import Request, placed
from selfx.tasks.schema import ABLATION, FEATURES, PATCHING, READING

KINDS: dict[str, Kind] = {
    PATCHING: cast(Kind, of_patching),
    READING: cast(Kind, of_reading),
    ABLATION: cast(Kind, of_ablation),
    FEATURES: cast(Kind, of_features),
}


def questions(
    requests: Sequence[Request], known: Sequence[str], desk: Desk
) -> tuple[list[list[Asked]], Desk]:
    """The questions of each request, and the desk at which they were made.

    The target reads all texts in one go.

    Args:
      requests: what is asked.
      known: the tasks that the explainer was trained on.
      desk: what they are made with.

    Raises:
      SelfxError: a request that cannot be asked; it names its line.
    """
    wanted, kinds = [], []
    for request in requests:
        try:
            tasks = () if request.example else tasks_of(request, known)
            kinds.append(tasks)
            for task in tasks:
                wanted += KINDS[task].places(request, desk)
        except SelfxError as error:
            raise placed(error, request.where) from error
    desk = desk.look(wanted)
    return [_made(r, tasks, desk) for r, tasks in zip(requests, kinds, strict=True)], desk


def truths(asked: Sequence[Asked], desk: Desk) -> list[Truth]:
    """What really happens, in the order of the questions; each kind is found out in one go."""
    found: list[Truth] = [Truth()] * len(asked)
    for kind in dict.fromkeys(map(_kind, asked)):
        rows = [row for row, each in enumerate(asked) if _kind(each) == kind]
        some = [asked[row] for row in rows]
        told = KINDS[kind].truths(some, desk) if kind else of_trace.truths(some)
        for row, truth in zip(rows, told, strict=True):
            found[row] = truth
    return found


def _made(request: Request, tasks: Sequence[str], desk: Desk) -> list[Asked]:
    try:
        if request.example:
            return [_of_trace(request)]
        return [asked for task in tasks for asked in KINDS[task].questions(request, desk)]
    except SelfxError as error:
        raise placed(error, request.where) from error


def _of_trace(request: Request) -> Asked:
    others = sorted(request.given - {"example"})
    if others:
        raise SelfxError(f"--example with --{others[0]}", expected="one of them")
    asked = of_trace.question(request.example)
    if request.task not in ("", asked.example.task):
        raise SelfxError(f"an example of {asked.example.task}", expected=request.task)
    return asked


def _kind(asked: Asked) -> str:
    """The task, or "" for what a trace answers."""
    return "" if asked.example.split == "test" else asked.example.task
