"""A question that a trace asks, with the truth that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.tasks.evidence import load_evidence
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Asked, Truth
from selfx.tasks.schema import FEATURES
from selfx.tasks.store import load_examples, load_trace


def question(spec: str) -> Asked:
    """The question `TRACE[:id]`; without an id the first of the test split.

    Raises:
      SelfxError: no such trace, or no such example in its test split.
    """
    folder, name = _split(spec)
    test = load_examples(folder, "test")
    found = [example for example in test if name in ("", example.id)]
    if not found:
        raise _missing(folder, name, test)
    example = found[0]
    about = {"example": f"{folder}:{example.id}", "cell": example.cell}
    return Asked(example, about | _target(folder), folder)


def _target(folder: Path) -> dict[str, Any]:
    """Whose trace it is."""
    found = load_trace(folder).get("target_hash")
    return {"target_hash": found} if found else {}


def truths(asked: Sequence[Asked]) -> list[Truth]:
    """What the traces say, with the texts that descriptions are scored on."""
    return [_truth(each.example, each.experiment) for each in asked]


def _truth(example: Example, folder: Path) -> Truth:
    evidence = None
    if example.task == FEATURES:
        evidence = load_evidence(folder, example.split, [example.id])[0]
    return Truth(example.answer, example.changed, example.content, evidence=evidence)


def _split(spec: str) -> tuple[Path, str]:
    """The trace's folder and the example's id, "" for none."""
    path = Path(spec).expanduser()
    folder, colon, name = spec.rpartition(":")
    if path.exists() or not colon:
        return path, ""
    return Path(folder).expanduser(), name


def _missing(folder: Path, name: str, test: Sequence[Example]) -> SelfxError:
    """The error for an id that the test split lacks."""
    if not test:
        return SelfxError(f"no test examples in {folder}")
    learned = name in {example.id for example in load_examples(folder, "train")}
    return SelfxError(
        f"example {name!r} of {folder}" + (", which the run may have learned" * learned),
        expected=f"one of its {len(test)} test examples, such as {test[0].id}",
    )
