"""Explainers trained and asked, one after the other, each found again where it stands finished.

A script of the paper is a list of arms. An arm has a folder of its own for its run and its scores,
named by what it is, so that scripts of one scale share what they have in common: the explainer of
a model by itself is trained once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import selfx
from experiments.cost import RATES, WEIGHTS, Job
from experiments.paper.scales import Model, Questions, Scale, Setup
from experiments.paper.traces import counted, part, placed
from experiments.whole_path import RESULTS
from selfx.errors import SelfxError
from selfx.evaluation.answers.kinds import SCORES
from selfx.evaluation.run import Evaluation, evaluate
from selfx.explainer.answer import Explainer, load_explainer, untrained
from selfx.explainer.fit import fit
from selfx.explainer.run import Run
from selfx.explainer.training import Training
from selfx.progress import progress
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Common:
    """What every script can be told."""

    scale: Scale = "smollm2"
    """tiny, smollm2, paper-llama or paper-qwen."""
    explainers: tuple[str, ...] = ()
    """Names of models of the scale, or folders of others as wide; none given is all."""
    seeds: tuple[int, ...] = (0,)
    """Of training."""
    data: str | None = None
    """Facts, questions or texts to trace instead of the scale's own."""
    limit: int = 0
    """Examples to trace; 0 takes the scale's."""
    released: bool = False
    """Ask the checkpoints that were published instead of training."""
    dry_run: bool = False
    """Only tell what would be done, and how long it may take."""
    work: Path = Path("runs/paper")
    keep: Path = RESULTS / "paper"

    @property
    def folder(self) -> Path:
        """Where the scale's work is."""
        return self.work / self.scale

    def of(self, found: Setup) -> Setup:
        """The setup with these settings' own data and size."""
        scales = found.questions
        questions = dataclasses.replace(
            scales,
            published="" if self.data else scales.published,
            data=self.data or scales.data,
            limit=self.limit or scales.limit,
        )
        return dataclasses.replace(found, questions=questions)


@dataclasses.dataclass(frozen=True)
class Arm:
    """An explainer and what it is asked.

    Attributes:
      model: what is made an explainer.
      seed: of its training.
      share: of the training groups.
      blind: whether it is trained on zeros in place of vectors.
      soften: the temperature of answers' shares that it learns instead of one answer; 0 for one.
      without: a part of questions that it is never told, in training or after; "" for none.
      ask: other questions than those it is trained on.
    """

    model: Model
    seed: int = 0
    share: float = 1.0
    blind: bool = False
    soften: float = 0.0
    without: str = ""
    ask: Questions | None = None

    @property
    def run(self) -> str:
        """The name of its run."""
        parts = [self.model.name, f"seed-{self.seed}"]
        parts += [f"share-{self.share:g}"] if self.share < 1 else []
        parts += [f"soft-{self.soften:g}"] if self.soften else []
        parts += [f"without-{self.without}"] if self.without else []
        return "-".join([*parts, "blind"] if self.blind else parts)

    @property
    def series(self) -> str:
        """What it has in common with those of other seeds."""
        return self.name.replace(f"-seed-{self.seed}", "", 1)

    @property
    def name(self) -> str:
        """The name of its scores."""
        return self.run + (f"-asked-{self.ask.name}" if self.ask else "")


class Bench:
    """Where the arms of a task are trained and asked, a model in memory at a time."""

    def __init__(self, common: Common, setup: Setup):
        self.common, self.setup = common, common.of(setup)
        self.loaded: tuple[str, LanguageModel] | None = None

    def load(self, source: str) -> LanguageModel:
        """A model, kept until another is asked for."""
        if self.loaded is None or self.loaded[0] != source:
            self.loaded = None  # the last one goes before the next one comes
            self.loaded = (source, selfx.load(source, dtype=self.setup.dtype))
        return self.loaded[1]

    def target(self) -> LanguageModel:
        """The model that is explained."""
        return self.load(self.setup.questions.target.source)

    def where(self, questions: Questions) -> Path:
        """The folder of a trace."""
        return self.common.folder / "traces" / questions.name

    def trace(self, questions: Questions, share: float = 1.0) -> Path:
        """A trace, there."""
        whole = placed(questions, self.where(questions), self.target)
        place = self.where(questions)
        return part(whole, share, place.with_name(f"{place.name}-share-{share:g}"))

    def place(self, arm: Arm) -> Path:
        """The folder of an arm's run."""
        return self.common.folder / self.setup.questions.name / "runs" / arm.run

    def scores(self, arm: Arm) -> Path:
        """The folder of an arm's scores."""
        kind = "scores-of-released" if self.common.released else "scores"
        return self.common.folder / self.setup.questions.name / kind / arm.name

    def training(self, arm: Arm) -> Training:
        """How an arm is trained."""
        own = self.setup.training(arm.model, arm.seed)
        withhold = (arm.without,) if arm.without else own.withhold
        return dataclasses.replace(own, blind=arm.blind, soften=arm.soften, withhold=withhold)

    def carry_out(self, arm: Arm) -> dict[str, Any]:
        """The scores of an arm, trained and asked as far as it is not."""
        learn = self.trace(self.setup.questions, arm.share)
        ask = learn if arm.ask is None else self.trace(arm.ask)
        explainer = self.explainer(arm, learn)
        answers = self.common.folder / "answers"
        with progress(f"{arm.name}, asked") as report:
            return evaluate(
                explainer, ask, self.scores(arm), self.asked(arm), answers=answers, report=report
            )

    def asked(self, arm: Arm) -> Evaluation:
        """What an arm is asked; beside the target's own explainer stands the one without vectors
        of the same seed, where that is trained. Of that one itself, and of other models, only
        the controls are of interest: the baselines are those of the target's own."""
        if arm.blind or arm.model.name != self.setup.questions.target.name:
            return dataclasses.replace(self.setup.evaluation, baselines=(), other_vectors="")
        own = arm == Arm(self.setup.questions.target, arm.seed)
        blind = self.place(dataclasses.replace(arm, blind=True))
        beside = own and not self.common.released and Run(blind).adapter.exists()
        return dataclasses.replace(self.setup.evaluation, text_only=str(blind) if beside else "")

    def explainer(self, arm: Arm, learn: Path) -> Explainer:
        """The explainer of an arm: trained, found, or released."""
        if self.common.released:
            lm = self.load(self.released(arm.model))
            return untrained(lm, self.training(arm))
        place, lm = self.place(arm), self.load(arm.model.source)
        with progress(arm.run) as report:
            fit(lm, [learn], place, self.training(arm), report=report)
        return load_explainer(place, lm)

    def released(self, model: Model) -> str:
        """What to load of a released explainer."""
        known = self.setup.released
        if model.name not in known:
            raise SelfxError(
                f"a released explainer of {self.setup.questions.target.name} from {model.name}",
                expected=f"one from {', '.join(known)}" if known else "a scale of the paper",
                hint="train it: leave --released out; or name others: --explainers",
            )
        return known[model.name]

    def jobs(self, arms: Sequence[Arm]) -> list[tuple[Job, float]]:
        """What is to be done, each with the seconds that it may take."""
        found: dict[str, tuple[Job, float]] = {}
        questions = self.setup.questions
        n = counted(questions, self.where(questions))
        for arm in arms:
            training, weights = self.training(arm), arm.model.weights
            done = Run(self.place(arm)).adapter.exists() or self.common.released
            tokens = n * arm.share * training.epochs * questions.tokens
            rounds = 1 + len(self.setup.evaluation.controls) + len(EXTRA)
            asked = self.setup.evaluation.limit or n // 3
            train = Job(f"train {arm.run}", "train", tokens, done)
            asking = (arm.ask or questions).tokens * asked * rounds
            ask = Job(f"ask {arm.name}", "ask", asking, (self.scores(arm) / SCORES).exists())
            for job in (train, ask):
                found[job.name] = (job, self.seconds(job, weights))
        return [*found.values()]

    def seconds(self, job: Job, weights: float) -> float:
        """About how long a job takes with a model of so many weights."""
        if job.done:
            return 0.0
        return job.tokens * weights / WEIGHTS / RATES[job.kind] / self.setup.speed


EXTRA = ("untrained", "few-shot", "selfie")
"""Baselines that ask all questions again."""
