"""Commands that train explainers and score them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from selfx.cli.arguments import Model, positive


@dataclasses.dataclass(frozen=True)
class Train:
    """Teach an explainer to answer a trace's questions; resumes where it stopped.

    For example:
      selfx train --data traces/patching --explainer smollm2-135m-instruct --out runs/patching
      selfx train --data traces/a traces/b --explainer smollm2-135m-instruct --out runs/both
    """

    data: tuple[Path, ...]
    """Trace folders."""
    explainer: Model
    """The model to adapt."""
    out: Path
    """The run folder."""
    epochs: float = 3.0
    """Passes over the data."""
    batch_size: int = 16
    """Examples a step."""
    learning_rate: float = 5e-4
    """AdamW's rate."""
    schedule: Literal["constant", "linear"] = "constant"
    """How the rate goes on."""
    warmup: int = 0
    """Steps of linear rise."""
    rank: int = 16
    """Of the adapters."""
    alpha: float = 16.0
    """Adapters are scaled by alpha / rank."""
    style: Literal["chat", "plain"] = "chat"
    """Questions in the chat template, or as plain text."""
    scaling: Literal["matched", "raw", "layer"] = "matched"
    """Vectors in place of an embedding, at the length of embeddings or raw, as they are (the
    paper); or added at the layer that they are from."""
    strength: float = 5.0
    """How many embedding lengths, where matched; how many lengths of the residual, at a layer."""
    remat: bool = False
    """Less memory, more time."""
    seed: int = 0
    """Of the adapters' start and the order of the data."""
    save_every: int = 50
    """Steps between checkpoints."""
    fresh: bool = False
    """Start over, forgetting what --out holds of an earlier run."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What was done."""
        from selfx.explainer.fit import fit
        from selfx.explainer.run import Training
        from selfx.explainer.step import Optimization
        from selfx.progress import progress
        from selfx.weights.load import load

        training = Training(
            **{name: getattr(self, name) for name in _SHARED},
            optimization=Optimization(self.learning_rate, self.schedule, self.warmup),
        )
        training.check()
        positive(save_every=self.save_every)
        with progress("training") as report:
            fitted = fit(
                load(self.explainer),
                self.data,
                self.out,
                training,
                fresh=self.fresh,
                save_every=self.save_every,
                report=report,
            )
        return {"run": str(fitted.path), "steps": fitted.steps, "loss": fitted.loss}


_SHARED = (
    "epochs",
    "batch_size",
    "rank",
    "alpha",
    "style",
    "scaling",
    "strength",
    "remat",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score an explainer on a trace's held-out questions, with controls, baselines and intervals.

    For example:
      selfx evaluate --data traces/patching --explainer runs/patching --out scores/patching
      selfx evaluate --data traces/patching --explainer smollm2-135m-instruct --out scores/untrained
    """

    data: Path
    """A trace folder."""
    explainer: Annotated[str, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run folder, or a model as it is."""
    out: Path
    """The evaluation folder."""
    controls: tuple[str, ...] | None = None
    """What the vector is replaced by: zero, shuffled, rotated; none given runs all."""
    baselines: tuple[str, ...] | None = None
    """What it is compared with; none given runs all that fit the task. For verdicts: untrained,
    majority, majority-per-cell, majority-verdict-per-cell; for descriptions: untrained, majority,
    nearest-cosine, nearest-dot, selfie, selfie-oracle, logit-lens, gold."""
    limit: int = 0
    """Ask this many test questions; 0 asks all."""
    max_new_tokens: int = 0
    """Where an answer is cut; 0 takes 40, and 80 where it is a description."""
    simulator: str = ""
    """A model that predicts activations from descriptions; none takes the built-in one."""
    batch_size: int = 32
    """Questions at once."""
    seed: int = 0
    """Of the controls and the bootstrap."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What scores.json holds."""
        from selfx.evaluation.controls import CONTROLS
        from selfx.evaluation.run import Evaluation, evaluate
        from selfx.progress import progress

        settings = Evaluation(
            controls=tuple(CONTROLS) if self.controls is None else self.controls,
            baselines=self.baselines,
            limit=self.limit,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            seed=self.seed,
            simulator=self.simulator,
        )
        settings.check()
        explainer = _explainer(self.explainer)
        with progress("evaluating") as report:
            return evaluate(explainer, self.data, self.out, settings, report=report)


def _explainer(source: str) -> Any:
    """The explainer of a run folder, or a model as it is."""
    from selfx.explainer.answer import load_explainer, untrained
    from selfx.explainer.run import Run, Training
    from selfx.weights.load import load

    if Run(Path(source)).exists():
        return load_explainer(source)
    return untrained(load(source), Training())
