"""What one model's explainer learned, on another model of the same shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from selfx.errors import SelfxError
from selfx.explainer.answer import Explainer, untrained
from selfx.explainer.lora import check_adapters, merge
from selfx.explainer.run import Run
from selfx.models.quantized import is_quantized
from selfx.weights.load import LanguageModel


def load_elsewhere(source: str | Path, base: LanguageModel) -> Explainer:
    """The explainer of a run, its adapters on another model than the one they were trained on.

    What was added to the one model's weights is added to the other's: an explainer of a model goes
    along when the model is trained further. It is taken to explain nobody in particular.

    Args:
      source: the run folder.
      base: the other model.

    Raises:
      SelfxError: no finished run, one that trained all weights, a quantised model, another shape.
    """
    run = Run(Path(source))
    trained = run.load_result(base.config)
    if trained.lora is None or trained.model is not None:
        raise SelfxError(
            f"a run in {run.path} without adapters to move",
            expected="one that trained LoRA",
            hint="--trains lora",
        )
    if is_quantized(base.model):
        raise SelfxError("adapters to move to a quantised model", expected="weights in floats")
    check_adapters(trained.lora, base.config)
    return dataclasses.replace(
        untrained(base, run.training(), run.origin()),
        name=f"{source} on {base.name}",
        model=merge(base.model, trained.lora),
        reader=trained.reader,
    )
