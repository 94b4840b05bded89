"""Verdicts scored by the rules of the paper's released code, to stand beside our own.

What differs: answers are compared as whole strings, in lower case, white space and full stops
stripped at both ends, so that one stray word makes a right answer wrong; contents keep a full stop
of their own; of several answers in a line the last counts, and "unchanged" before "changed"
wherever it stands; a space must stand before the brackets, which must be three; and F1 leaves out
what cannot be read (arXiv 2511.08579's code, `causal_exact_match_eval`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selfx.evaluation.answers.metrics import (
    Outcomes,
    content_match,
    exact_match,
    has_changed_f1_released,
    parsed,
)
from selfx.evaluation.answers.parsing import UNPARSABLE, Parsed
from selfx.evaluation.statistics.rows import Metric

if TYPE_CHECKING:
    from selfx.tasks.example import Example

RELEASED: dict[str, Metric] = {
    "exact_match": exact_match,
    "has_changed_f1": has_changed_f1_released,
    "content_match": content_match,
    "parsed": parsed,
}
"""The metrics of outcomes by those rules."""

_VERDICTS = {
    False: re.compile(r".*remain\s+unchanged\s+from\s+<<<((?s:.*?))>>>"),
    True: re.compile(r".*change\s+to\s+<<<((?s:.*?))>>>"),
}


def score_released(examples: Sequence[Example], answers: Sequence[str]) -> Outcomes:
    """Returns the outcomes of the answers, one for each example, by the released rules."""
    said, true = [_whole(answer) for answer in answers], [_whole(e.answer) for e in examples]
    read, truth = [_read(text) for text in said], [_read(text) for text in true]
    pairs = list(zip(read, truth, strict=True))
    readable = np.array([p.ok and t.ok for p, t in pairs], bool)
    same = np.array([p.changed == t.changed for p, t in pairs], bool)
    equal = np.array([p.content == t.content for p, t in pairs], bool)
    letters = np.array([a == b for a, b in zip(said, true, strict=True)], bool)
    return Outcomes(
        gold_changed=np.array([bool(t.changed) for t in truth], bool),
        pred_changed=np.array([-1 if p.changed is None else int(p.changed) for p in read], np.int8),
        content_equal=equal & readable,
        exact=letters & same & readable,
        parsed=readable,
        group=np.array([example.group for example in examples], dtype=object),
    )


def _whole(text: str) -> str:
    return text.strip().lower().strip(".")


def _read(text: str) -> Parsed:
    """Returns what a stripped answer says."""
    for changed, pattern in _VERDICTS.items():
        found = pattern.search(text)
        if found:
            return Parsed(changed, found[1].strip(), ok=True)
    return UNPARSABLE
