"""A stand-in with the fields of `selfx.tasks.example.Example`, and a maker of examples."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Example:
    id: str
    task: str
    split: str
    group: str
    cell: str
    question: str
    answer: str
    changed: bool
    content: str
    vector: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)


def word(changed: bool, content: str) -> str:
    if changed:
        return f"The most likely output would change to <<<{content}>>>."
    return f"The output would remain unchanged from <<<{content}>>>."


@pytest.fixture
def example():
    """A maker: `example(3, True, "Paris", cell="a")` is the third example, changed to Paris."""

    def make(number, changed, content, *, cell="a", group=None, task="activation-patching"):
        return Example(
            id=f"e{number}",
            task=task,
            split="test",
            group=group or f"g{number}",
            cell=cell,
            question=f"Question {number}: what if <vector> is put in?",
            answer=word(changed, content),
            changed=changed,
            content=content,
        )

    return make


@pytest.fixture(name="word")
def word_fixture():
    """The grammar's writing side."""
    return word
