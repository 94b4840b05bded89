"""One question about a target's inside, with its true answer: what every later room works on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

SLOT = "<vector>"
"""Where a question's text shows a vector; an explainer's prompt puts its placeholder there.

A text shows all vectors of its example at one such place, side by side, or each at its own."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A question, what really happened, and what may be looked at to answer it.

    Attributes:
      id: unique in its trace folder, the same however the trace was interrupted.
      task: `activation-patching`, `input-ablation` or `feature-description`.
      split: `train` or `test`.
      group: what is held out together and resampled together: the subject, the question, or
        directions that are nearly the same.
      cell: the experiment's kind, such as `subject_last × 8-15`, for baselines and tables.
      system: the system message of the question, or "".
      questions: the same question in each wording of the task; `SLOT` stands for the vector.
      answer: the true answer, in the grammar of `selfx.tasks.wording`, or a description.
      changed: whether the outcome changed; False for a description.
      content: the outcome after the intervention (what it stayed at, if unchanged), or "".
      vectors: float32 `[m, d]`, what the explainer may read, or None where a task has none.
      details: the columns of the trace that it came from, vector left out.
      layers: after which layer of the target each of the `m` vectors was taken.
      without: which parts of its questions were left out (`selfx.tasks.withheld`).
      likely: answers that were near to being true, each with its share, the true one among them;
        empty where only that is known (`selfx.tasks.graded`).
      openings: the wordings for a model that does not chat, sentences that the answer completes;
        empty where it is asked the same questions.
    """

    id: str
    task: str
    split: str
    group: str
    cell: str
    system: str
    questions: tuple[str, ...]
    answer: str
    changed: bool
    content: str
    vectors: np.ndarray | None
    details: dict[str, Any]
    openings: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    likely: tuple[tuple[str, float], ...] = ()

    @property
    def question(self) -> str:
        """The question in its first wording, the one used to evaluate."""
        return self.questions[0]

    @property
    def vector(self) -> np.ndarray | None:
        """Its vector `[d]`, the last of several: the deepest, where they come in order of depth."""
        return None if self.vectors is None else self.vectors[-1]
