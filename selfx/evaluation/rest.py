"""What an evaluation is compared with that must be named: another run, another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfx.errors import SelfxError
from selfx.evaluation.answers.scoring import Answered
from selfx.evaluation.asked import Asked, adapter_digest
from selfx.evaluation.other_model import other_model
from selfx.explainer.answer import Explainer, check_vectors, load_explainer
from selfx.explainer.run import Run
from selfx.tasks.example import Example
from selfx.weights.load import load

if TYPE_CHECKING:
    from selfx.evaluation.run import Evaluation


@dataclasses.dataclass(frozen=True)
class Rest:
    """The other run and the other model, as far as they were named.

    Attributes:
      blind: an explainer that was trained without vectors.
      given: the test examples with another model's vectors.
      other_hash: that model's.
    """

    blind: Explainer | None = None
    given: list[Example] | None = None
    other_hash: str = ""

    def answers(self, asked: Asked) -> list[Answered]:
        """What the blind explainer says, and what the explainer says of the other vectors."""
        blind = [] if self.blind is None else [asked.text_only(self.blind)]
        return blind if self.given is None else [*blind, asked.given(self.given)]

    def record(self) -> dict[str, str]:
        """What the answers depend on."""
        blind = {} if self.blind is None else {"text_only_digest": adapter_digest(self.blind)}
        return blind | ({"other_vectors_hash": self.other_hash} if self.other_hash else {})


def load_rest(
    explainer: Explainer, trace: dict[str, Any], test: Sequence[Example], settings: Evaluation
) -> Rest:
    """The run and the model that the settings name, ready to be asked.

    Raises:
      SelfxError: the run reads vectors, or the vectors cannot be had of the model.
    """
    blind = _blind(explainer, test, settings.text_only) if settings.text_only else None
    if not settings.other_vectors:
        return Rest(blind)
    model = load(settings.other_vectors)
    other = other_model(
        model,
        explainer.base,
        trace,
        layers=explainer.origin.layers,
        width=explainer.origin.width,
        projection=settings.other_projection,
        seed=settings.seed,
    )
    return Rest(blind, other(test, batch_size=settings.batch_size), model.hash)


def _blind(explainer: Explainer, test: Sequence[Example], folder: str) -> Explainer:
    """The explainer of a run that was trained without vectors."""
    run, base = Run(Path(folder)), explainer.base
    same = run.record()["explainer_hash"] == base.hash
    blind = load_explainer(folder, base if same else None)
    if not blind.training.blind:
        raise SelfxError(
            f"{folder} as an explainer of the text alone",
            expected="a run that was trained without vectors",
            hint="selfx train … --blind",
        )
    check_vectors(test, blind)
    return blind
