"""The settings of a run: with the data and the seed they decide every number in it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args

from selfx.errors import SelfxError
from selfx.explainer.injection import Name, Way
from selfx.explainer.optimization import SCHEDULES, Optimization
from selfx.explainer.prompts import Style, check_withheld

Part = Literal["lora", "full", "scale", "bias", "low_rank", "projection"]
"""What can be trained: LoRA on the explainer's maps or all of its weights; of what a vector goes
through before it is read, a scale, a bias, a low-rank map, and the projection between widths."""

PARTS: tuple[str, ...] = get_args(Part)
_POSITIVE = ("epochs", "batch_size", "accumulate", "rank", "alpha", "reader_rank", "evaluate_every")
_FROM_ZERO = ("strength", "patience", "warmup", "weight_decay", "soften")


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained, how it reads, and for how long.

    Attributes:
      epochs: passes over the data; a fraction is allowed.
      batch_size: examples a step.
      accumulate: in how many parts a step's examples go through the model, one after the other.
      trains: which parts, names of `Part`.
      rank: of LoRA's matrices.
      alpha: adapters are scaled by alpha / rank, or by alpha / sqrt(rank) where `rslora`.
      rslora: rank-stabilised scaling (arXiv 2312.03732).
      dropout: of what enters LoRA, as PEFT has it.
      targets: the maps with adapters; none named is all.
      reader_rank: of the low-rank map that vectors go through.
      centred: whether each layer's mean direction, as the training vectors have it, is taken away
        from vectors first; where scale and bias are trained, they start there.
      probed: the share of the training groups to which a ridge regression is fitted, the explainer
        learning from the others: in the place of an example's vectors stands the outcome that the
        regression reads of them together, in the explainer's own embeddings, and nothing else of
        them but what scale and low_rank, where they are trained, come to add. For `marker`, at a
        strength of 1. 0 shows the vectors themselves.
      projection: where widths differ, what the projection starts as: `random`, `kaiming` (the
        paper's), or the folder of a fitted one. "" where they do not.
      style: how a question is framed: the explainer's `chat` template, or `plain` text.
      injection: how a vector enters, a name in `selfx.explainer.injection.INJECTIONS`.
      strength: in the injection's own measure; 0 takes its default.
      at: after which layer it enters, for those that enter after one; -1 is the vector's own.
      latest: of those that enter after their own layer, the last that they may; -1 for any.
      blind: zeros enter in place of every vector, in training and ever after: what is learned is
        learned of the text alone.
      withhold: parts of questions, names in `selfx.tasks.withheld.PARTS`, that are left out in
        training and ever after.
      optimization: rates and schedule.
      start: a finished run to start from instead of from nothing; "" for none.
      soften: learn each answer's share instead of the one that came out ahead, where a trace keeps
        the target's scores (input ablation): the temperature that they are divided by, in nats; 0
        learns that one alone.
      held_out: the share of training groups that are kept back to watch the lift by.
      evaluate_every: steps between looks at them.
      patience: looks in a row without a lower loss after which training ends, with the best state
        as its result; 0 trains to the end and keeps the last.
      remat: recompute instead of keeping: less memory, more time.
      seed: of every draw.
    """

    epochs: float = 3.0
    batch_size: int = 16
    accumulate: int = 1
    trains: tuple[Part, ...] = ("lora",)
    rank: int = 16
    alpha: float = 16.0
    rslora: bool = False
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    reader_rank: int = 16
    centred: bool = False
    probed: float = 0.0
    projection: str = ""
    style: Style = "chat"
    injection: Name = "marker"
    strength: float = 0.0
    at: int = -1
    latest: int = -1
    blind: bool = False
    withhold: tuple[str, ...] = ()
    optimization: Optimization = Optimization()
    start: str = ""
    soften: float = 0.0
    held_out: float = 0.05
    evaluate_every: int = 50
    patience: int = 0
    remat: bool = False
    seed: int = 0

    @property
    def way(self) -> Way:
        """How vectors enter."""
        return Way(self.injection, self.strength, self.at, self.latest, self.blind)

    @property
    def beams(self) -> int:
        """How many answers to write at once, for the likeliest of them."""
        return beams_of(self.soften)

    @property
    def asking(self) -> Training:
        """The settings that decide how a model is asked; those of its training are as they come.

        So explainers that differ in training alone have one and the same model before it.
        """
        kept = ("style", "injection", "strength", "at", "latest", "blind", "withhold")
        return Training(**{name: getattr(self, name) for name in kept})

    @property
    def lora_scale(self) -> float:
        """What adapters are scaled by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def reader_parts(self) -> tuple[str, ...]:
        """What is trained of that which a vector goes through."""
        return tuple(part for part in self.trains if part not in ("lora", "full"))

    def check(self) -> None:
        """Raises SelfxError for settings that no run can have."""
        values = {**dataclasses.asdict(self), **dataclasses.asdict(self.optimization)}
        for name in (*_POSITIVE, "learning_rate", "reader_rate", "clip"):
            if not 0 < values[name] < math.inf:
                raise SelfxError(f"{name} {values[name]}", expected="a positive number")
        for name in _FROM_ZERO:
            if not 0 <= values[name] < math.inf:
                raise SelfxError(f"{name} {values[name]}", expected="0 or more")
        for name in ("dropout", "held_out", "probed"):
            if not 0 <= values[name] < 1:
                raise SelfxError(f"{name} {values[name]}", expected="from 0 to below 1")
        for name, choices in {"style": get_args(Style), "schedule": SCHEDULES}.items():
            if values[name] not in choices:
                raise SelfxError(f"{name} {values[name]!r}", expected=" or ".join(choices))
        self._check_parts()
        check_withheld(self.withhold)
        self.way.check()

    def _check_parts(self) -> None:
        strange = [part for part in self.trains if part not in PARTS]
        if strange or not self.trains or len(set(self.trains)) < len(self.trains):
            raise SelfxError(
                f"trains {', '.join(self.trains) or 'nothing'}",
                expected=f"some of {', '.join(PARTS)}, each once",
            )
        if self.probed:
            self._check_probed()
        if {"lora", "full"} <= set(self.trains):
            raise SelfxError("trains both lora and full", expected="one of them")
        if self.batch_size % self.accumulate:
            raise SelfxError(
                f"{self.batch_size} examples a step in {self.accumulate} parts",
                expected="parts of one size",
            )
        if self.patience and not self.held_out:
            raise SelfxError("patience without held-out examples", hint="--held-out 0.05")

    def _check_probed(self) -> None:
        strange = {
            "centred": self.centred,
            "blind": self.blind,
            f"injection {self.injection}": self.injection != "marker",
            f"strength {self.strength:g}": self.strength != 1,
            "trains projection": "projection" in self.trains,
        }
        if found := [name for name, is_so in strange.items() if is_so]:
            raise SelfxError(
                f"probed with {' and '.join(found)}",
                expected="vectors shown as embeddings are, whose means it takes away itself",
                hint="--injection marker --strength 1, and none of centred, blind and projection",
            )


def beams_of(soften: float) -> int:
    """How many answers to write at once after a training with that `soften`.

    Where shares were learned a greedy answer is not the likeliest: of four letters three say that
    the outcome changes, and that verdict would begin the answer even where the fourth is ahead.
    """
    return 4 if soften else 1


def from_record(settings: dict[str, Any]) -> Training:
    """The settings that a `config.json` holds.

    Raises:
      KeyError, TypeError: they are of another version.
    """
    settings = dict(settings)
    optimization = Optimization(**settings.pop("optimization"))
    for name in ("trains", "targets", "withhold"):
        settings[name] = tuple(settings.get(name, ()))
    return Training(**settings, optimization=optimization)
