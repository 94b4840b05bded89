"""What the doctor found: one check a line for people, one JSON object for programs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

Outcome = Literal["passed", "failed", "skipped"]
_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      name: what it is called, such as `step: query`.
      about: what it compares, in a sentence.
      outcome: `passed`, `failed` or `skipped`.
      worst: the largest relative difference found, or None where nothing is measured.
      limit: what `worst` may be.
      where: the place of the worst difference.
      note: what is wrong, why it was skipped, or what is worth knowing though it passed.
    """

    name: str
    about: str
    outcome: Outcome
    worst: float | None = None
    limit: float | None = None
    where: str = ""
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.outcome == "failed"


@dataclasses.dataclass(frozen=True)
class Report:
    """All checks of one model.

    Attributes:
      model: what it was asked for by.
      dtype: of its weights.
      tokens: how many tokens of text the checks ran on.
      checks: in the order in which a forward pass meets what they look at.
    """

    model: str
    dtype: str
    tokens: int
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not any(check.failed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.failed)

    def to_json(self) -> dict[str, Any]:
        """`{"model", "ok", "dtype", "tokens", "checks": [{"name", "outcome", ...}]}`.

        Strict JSON: a difference that is no number, as where an array holds NaN, is null.
        """
        checks = [dataclasses.asdict(check) for check in self.checks]
        for check in checks:
            if check["worst"] is not None and not math.isfinite(check["worst"]):
                check["worst"] = None
        return {
            "model": self.model,
            "ok": self.ok,
            "dtype": self.dtype,
            "tokens": self.tokens,
            "checks": checks,
        }

    def __rich__(self) -> Group:
        """The table, and under it what is wrong."""
        table = Table(
            "check", "", "worst", "limit", "where", title=self.model, title_justify="left"
        )
        for check in self.checks:
            outcome = Text(check.outcome, _COLOURS[check.outcome])
            table.add_row(
                check.name, outcome, *map(_short, (check.worst, check.limit)), check.where
            )
        notes = [Text(f"{c.name} {c.outcome}: {c.note}") for c in self.checks if c.note]
        count = {o: sum(c.outcome == o for c in self.checks) for o in _COLOURS}
        total = ", ".join(f"{n} {outcome}" for outcome, n in count.items() if n)
        return Group(table, *notes, Text(f"{total}; {self.tokens} tokens, {self.dtype}"))

    def __str__(self) -> str:
        """The same as plain text."""
        console = Console(width=110, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def skipped(name: str, about: str, reason: str) -> Check:
    """A check that could not be made."""
    return Check(name, about, "skipped", note=reason)


def stated(name: str, about: str, problems: list[str], note: str = "") -> Check:
    """A check that measures nothing: it fails if there are problems."""
    if problems:
        return Check(name, about, "failed", note="; ".join(problems))
    return Check(name, about, "passed", note=note)


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.1e}" if number else "0"
