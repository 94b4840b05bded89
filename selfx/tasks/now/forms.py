"""Which kind of question a request can be: each kind is told by the keys that it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from selfx.errors import SelfxError
from selfx.tasks.now.request import Request
from selfx.tasks.schema import ABLATION, FEATURES, NEEDED, PATCHING, READING
from selfx.tasks.wording import HINT_BEGINS


@dataclasses.dataclass(frozen=True)
class Form:
    """The keys of a kind of question.

    Attributes:
      task: its task.
      needs: what must be given.
      may: what can be given too.
      hinted: whether the text must hold a hint, by which it is told from others.
    """

    task: str
    needs: tuple[str, ...]
    may: tuple[str, ...] = ()
    hinted: bool = False

    def fits(self, request: Request) -> bool:
        """Whether a request gives what is needed, and nothing that would be ignored."""
        given = set(self.needs) <= request.given <= {*self.needs, *self.may}
        return given and (not self.hinted or HINT_BEGINS in request.text)

    @property
    def words(self) -> str:
        """What is needed, in words."""
        return " ".join(f"--{name.replace('_', '-')}" for name in self.needs)


FORMS = (
    Form(PATCHING, ("text", "at", "source_text", "source_at", "layer")),
    Form(READING, ("text", "at", "layer"), ("ask",)),
    Form(READING, ("vector", "layer"), ("ask",)),
    Form(ABLATION, ("question", "choices", "hint"), ("layer",)),
    Form(ABLATION, ("text",)),
    Form(ABLATION, ("text", "layer"), hinted=True),
    Form(FEATURES, ("feature",)),
    Form(FEATURES, ("vector", "layer")),
    Form(FEATURES, ("text", "at", "layer")),
)
EXAMPLE = ("example",)
"""The key that stands alone: a trace says of what task its examples are."""


def tasks_of(request: Request, known: Sequence[str]) -> tuple[str, ...]:
    """The tasks whose question a request is: of those that a run knows, or the one it names.

    Args:
      request: not one of an example.
      known: the tasks that the run was trained on.

    Raises:
      SelfxError: none fits; it says what would.
    """
    if request.task and request.task not in NEEDED:
        raise SelfxError(f"task {request.task!r}", expected=f"one of {', '.join(NEEDED)}")
    fitting = [form.task for form in FORMS if form.fits(request)]
    wanted = (request.task,) if request.task else tuple(known)
    found = tuple(task for task in wanted if task in fitting)
    if found:
        return found
    given = " ".join(f"--{name.replace('_', '-')}" for name in sorted(request.given))
    options = [f"{form.words} ({form.task})" for form in FORMS if form.task in wanted]
    hint = f"--task {fitting[0]}, which the run was not trained on" if fitting else ""
    raise SelfxError(
        f"a question with {given} for {', '.join(wanted) or 'a run without traces'}",
        expected="; or ".join(options),
        hint="" if request.task else hint,
    )
