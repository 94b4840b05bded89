"""What the paper's experiments are run with: models, questions and training, in four sizes.

    tiny          random models, in seconds: shows that the scripts run, and nothing else
    smollm2       SmolLM2-135M-Instruct and siblings of it, on two CPU cores
    paper-llama   Llama-3.1-8B, as published (arXiv 2511.08579, and its released configurations)
    paper-qwen    Qwen3-8B, as published

The paper's appendix of hyperparameters was not found as printed: these are those of the released
configurations, but for input ablation's rate, which its authors lowered later (1e-5). Where they
differ from here: the loss is not divided by padded length, the end of an answer is trained too, a
question that ends in a space does not, and a projection is trained itself, not through LoRA.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from selfx.errors import SelfxError
from selfx.evaluation.run import Evaluation
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.tasks.schema import ABLATION

Scale = Literal["tiny", "smollm2", "paper-llama", "paper-qwen"]
Task = Literal["feature-description", "activation-patching", "input-ablation"]
SCALES: tuple[str, ...] = get_args(Scale)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, to explain or to be explained.

    Attributes:
      name: in tables.
      source: what is loaded: a packaged model, a hub id, a folder.
      weights: in its layers, for the estimate of time.
      chats: whether questions go through its chat template.
      width: of its residual stream.
    """

    name: str
    source: str
    weights: float
    chats: bool = True
    width: int = 4096


@dataclasses.dataclass(frozen=True)
class Questions:
    """A trace.

    Attributes:
      name: of its folder.
      task: what is asked.
      target: of which model.
      published: a folder or hub id that has it, or, of feature descriptions, the archive; "" makes
        it here.
      data: facts, questions or texts to make it from; none takes those that come with selfx.
      limit: examples.
      options: of the task.
      tokens: of a question with its answer, about, for the estimate of time.
    """

    name: str
    task: str
    target: Model
    published: str = ""
    data: str | None = None
    limit: int = 4000
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokens: int = 100


@dataclasses.dataclass(frozen=True)
class Setup:
    """One task at one size.

    Attributes:
      questions: what is learned and asked; the explainer of `questions.target` is self.
      others: the models of the cross explainers.
      trainings: how each explainer is trained, by name; `""` is how all others are.
      released: explainers as released, by the name of their model: what to load.
      evaluation: what is asked, and under which controls.
      outside: questions out of distribution, for feature descriptions.
      dtype: of the weights.
      speed: how many times as fast as two CPU cores, for the estimate of time.
    """

    questions: Questions
    others: tuple[Model, ...]
    trainings: Mapping[str, Training]
    released: Mapping[str, str] = dataclasses.field(default_factory=dict)
    evaluation: Evaluation = Evaluation()
    outside: tuple[Questions, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    speed: float = 1.0

    @property
    def models(self) -> tuple[Model, ...]:
        """Self, then the others."""
        return (self.questions.target, *self.others)

    def chosen(self, names: tuple[str, ...]) -> tuple[Model, ...]:
        """The explainers of those names, a folder standing for itself; none named is all.

        Raises:
          SelfxError: a name that is neither.
        """
        known = {model.name: model for model in self.models}
        for name in names:
            if name not in known and not Path(name).is_dir():
                raise SelfxError(f"explainer {name!r}", expected=f"{', '.join(known)}, or a folder")
        own = self.questions.target
        given = (
            known.get(name) or dataclasses.replace(own, name=Path(name).name, source=name)
            for name in names
        )
        return tuple(given) if names else self.models

    def training(self, model: Model, seed: int) -> Training:
        """How a model is made an explainer.

        Another width needs a projection: it is trained with the rest, from the paper's start.
        """
        training = self.trainings.get(model.name, self.trainings[""])
        style: Literal["chat", "plain"] = "chat" if model.chats else "plain"
        training = dataclasses.replace(training, style=style, seed=seed)
        wide = self.questions.task == ABLATION or model.width == self.questions.target.width
        if wide or "projection" in training.trains:
            return training
        parts = (*training.trains, "projection")
        return dataclasses.replace(training, projection="kaiming", trains=parts)


def setup(scale: str, task: str, work: Path) -> Setup:
    """A task at a size.

    Raises:
      SelfxError: the paper has no such experiment.
    """
    from experiments.paper import published, small

    makers = {
        "tiny": small.tiny,
        "smollm2": small.smollm2,
        "paper-llama": published.llama,
        "paper-qwen": published.qwen,
    }
    if scale not in makers:
        raise SelfxError(f"scale {scale!r}", expected=f"one of {', '.join(SCALES)}")
    found = makers[scale](work)
    if task not in found:
        raise SelfxError(f"{task} at {scale}", expected=f"one of {', '.join(found)}")
    return found[task]


def constant(rate: float, **others: Any) -> Optimization:
    """The released optimiser: AdamW at a constant rate, no warm-up, decay 0.01, clipped at 1."""
    return Optimization(rate, "constant", 0, weight_decay=0.01, clip=1.0, **others)
