"""One question about a target's inside, with its true answer: what every later room works on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

SLOT = "<vector>"
"""Where a question's text shows the vector; an explainer's prompt puts its placeholder there."""


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
      vector: float32 `[d]`, or None where a task has none.
      details: the columns of the trace that it came from, vector left out.
      layer: the layer that the vector was taken after, -1 where there is none.
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
    vector: np.ndarray | None
    details: dict[str, Any]
    openings: tuple[str, ...] = ()
    layer: int = -1

    @property
    def question(self) -> str:
        """The question in its first wording, the one used to evaluate."""
        return self.questions[0]
