"""Does an explainer follow its model when the model changes?

    python -m experiments.behaviour_change smollm2 --dry-run
    python -m experiments.behaviour_change smollm2 --sibling.questions QUESTIONS
    python -m experiments.behaviour_change tiny

An explainer E learns to say how a target T answers without a hint (input ablation). T is then
trained further, to T' (`experiments.siblings`). On held-out questions where the two behave
differently, four explainers are asked, and each answer is the new truth, the old one, or neither
(after Binder et al., arXiv 2410.13787, and Introspective Coupling, 2606.32038):

    E on T                what it learned: the control, which should tell the old
    E moved to T'         E's adapter on T' without any training: does it tell the new?
    T' on old answers     a new explainer that starts from T', taught what T answers
    T' on new answers     the same, taught what T' answers: as good as it gets

beside constants per hint, which tell how far one comes without looking at any model. If E moved to
T' tells the new where E on T tells the old, what it says depends on the weights it sits on. If it
goes on to tell the old, it learned facts about T. If it tells neither, T' has only lost the adapter
its footing: look at `alike`, the questions on which nothing changed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import selfx
from experiments import siblings
from experiments.command import command
from experiments.cost import Job, show
from experiments.whole_path import RESULTS
from selfx.errors import SelfxError
from selfx.evaluation.across.three_way import Twice, lean_difference, pair, three_way
from selfx.evaluation.baselines.constant import majority_per_cell
from selfx.evaluation.kept import Kept
from selfx.explainer.answer import Explainer, answer, load_explainer
from selfx.explainer.elsewhere import load_elsewhere
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.files import write_json, write_text
from selfx.progress import progress
from selfx.tasks.questions import read_questions
from selfx.tasks.rows import read_rows
from selfx.tasks.schema import ABLATION
from selfx.tasks.store import load_examples
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel

CONTROL, MOVED = "E on T", "E moved to T'"


@dataclasses.dataclass(frozen=True)
class Config:
    """The test."""

    sibling: siblings.Config = siblings.Config(
        name="follower-only", facts_differ=0.0, work=Path("runs/siblings/follower-only")
    )
    """How T becomes T'."""
    questions: int = 2400
    """That both are asked, at most, train and test together; all that is found is kept."""
    longest: int = 152
    training: Training = Training(
        epochs=1.5, batch_size=16, optimization=Optimization(1e-3, "linear", 10)
    )
    """Of E and of the explainers that start from T'."""
    asked: int = 400
    """Held-out questions where the two differ, and as many where they do not, at most."""
    max_new_tokens: int = 24
    seed: int = 0
    work: Path = Path("runs/behaviour-change")
    keep: Path = RESULTS / "behaviour_change"
    dry_run: bool = False
    """Only tell what would be done, and how long it may take."""


TINY = Config(
    sibling=siblings.TINY,
    questions=48,
    longest=160,
    training=Training(
        epochs=0.1,
        batch_size=4,
        style="plain",
        optimization=Optimization(1e-2),
        held_out=0.0,
    ),
    asked=4,
    max_new_tokens=2,
    work=Path("runs/tiny/behaviour-change"),
    keep=Path("runs/tiny/results/behaviour_change"),
)


def main(config: Config) -> dict[str, Any]:
    """Prints what each explainer tells, keeps it, and returns it."""
    sibling = siblings.placed(config.sibling)
    if config.dry_run:
        show([*siblings.jobs(sibling), *jobs(config)], selfx.load(sibling.model).config)
        return {}
    made = siblings.main(config.sibling)
    before, after = selfx.load(sibling.model), selfx.load(str(sibling.work / "model"))
    file = subset(config, sibling.questions)
    old, new = (traced(config, file, *each) for each in (("old", before), ("new", after)))
    questions = drawn(config, old, new)
    told = asked(config, questions, before, after)
    train = {name: load_examples(where, "train") for name, where in (("old", old), ("new", new))}
    for name, examples in train.items():
        told[f"constant per hint, of the {name}"] = majority_per_cell(examples, questions.new)
    found = {
        "config": told_of(config),
        "sibling": made["statement"],
        "explainers": {name: three_way(questions, answers) for name, answers in told.items()},
        "against_control": {
            name: lean_difference(questions, answers, told[CONTROL])
            for name, answers in told.items()
            if name != CONTROL
        },
    }
    write_json(config.keep / "scores.json", found)
    print(table(found), flush=True)
    return found


def subset(config: Config, source: str) -> Path:
    """A file of the questions that are asked, drawn by the seed."""
    file = config.work / "questions.jsonl"
    if not file.exists():
        good = {question.index for question in read_questions(source)[0]}
        rows = [row for index, (_, row) in enumerate(read_rows(source)) if index in good]
        order = np.random.default_rng(config.seed).permutation(len(rows))[: config.questions]
        write_text(file, "".join(json.dumps(rows[i]) + "\n" for i in sorted(order)))
    return file


def traced(config: Config, questions: Path, name: str, lm: LanguageModel) -> Path:
    """The trace of a model, of every question: to balance would drop others for each model."""
    out = config.work / f"trace-{name}"
    limit = 4 * config.questions
    with progress(f"tracing the {name}") as report:
        options = {"max_tokens": config.longest}
        trace(ABLATION, lm, out, data=questions, limit=limit, progress=report, **options)
    return out


def drawn(config: Config, old: Path, new: Path) -> Twice:
    """Held-out questions with both truths: those that differ, and as many that do not."""
    both = pair(load_examples(new, "test"), load_examples(old, "test"))
    differ = [one.answer != other.answer for one, other in zip(both.new, both.old, strict=True)]
    if not any(differ):
        raise SelfxError(
            f"two models that agree on all {len(differ)} held-out questions",
            expected="a sibling that behaves otherwise",
            hint="a larger --sibling.answers-differ, or more --questions",
        )
    order = np.random.default_rng(config.seed).permutation(len(differ))
    kept: list[int] = []
    for wanted in (True, False):
        kept += [int(i) for i in order if differ[i] is wanted][: config.asked]
    kept.sort()
    return Twice(tuple(both.new[i] for i in kept), tuple(both.old[i] for i in kept))


def asked(
    config: Config, questions: Twice, before: LanguageModel, after: LanguageModel
) -> dict[str, list[str]]:
    """What each explainer answers; runs and answers that are there are not made again."""
    old, new = config.work / "trace-old", config.work / "trace-new"
    explainer = learned(config, "e", before, old)
    makers: dict[str, Callable[[], Explainer]] = {
        CONTROL: lambda: load_explainer(explainer, before),
        MOVED: lambda: load_elsewhere(explainer, after),
        "T' on old answers": lambda: load_explainer(learned(config, "t-old", after, old), after),
        "T' on new answers": lambda: load_explainer(learned(config, "t-new", after, new), after),
    }
    keep, key = Kept(config.work / "answers"), str(config.max_new_tokens)
    return {
        name: keep(name.replace(" ", "-"), key, functools.partial(_ask, config, questions, make))
        for name, make in makers.items()
    }


def learned(config: Config, name: str, lm: LanguageModel, data: Path) -> Path:
    """The run of an explainer that starts from a model and learns from a trace."""
    with progress(f"training {name}") as report:
        training = dataclasses.replace(config.training, seed=config.seed)
        return fit(lm, [data], config.work / f"run-{name}", training, report=report).path


def _ask(config: Config, questions: Twice, make: Callable[[], Explainer]) -> list[str]:
    explainer, limit = make(), config.max_new_tokens
    with progress(f"asking {Path(explainer.name).name}") as report:
        return answer(explainer, questions.new, max_new_tokens=limit, report=report)


def told_of(config: Config) -> dict[str, Any]:
    """The configuration as anybody has it, without folders of this machine."""
    found = dataclasses.asdict(config) | {"work": None, "keep": None, "dry_run": None}
    return json.loads(json.dumps(found | {"sibling": siblings.told(config.sibling)}))


def table(found: dict[str, Any]) -> str:
    """What each explainer tells where the two truths differ, percent."""
    lines = []
    for name, each in found["explainers"].items():
        exact = each["exact"]
        shares = ", ".join(f"{part} {_percent(exact[part])}" for part in ("new", "old", "neither"))
        right = _percent(each["alike"]["right"]) if each["alike"]["n"] else "-"
        lines.append(f"{name:34s} {shares}; right where nothing changed {right}")
    for name, each in found["against_control"].items():
        lean = f"{_percent(each['lean'])} points, p {each['test']['p']:.3f}"
        lines.append(f"{name} against {CONTROL}: new {_percent(each['new'])}, lean {lean}")
    return "\n".join(lines)


def _percent(interval: dict[str, float]) -> str:
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def jobs(config: Config) -> list[Job]:
    """What is to be done, with about how many tokens."""
    length, work = config.longest, config.work
    train = 0.75 * config.questions * config.training.epochs * (length + 50)
    ask = 2 * config.asked * (length + 30)
    found = [
        Job(f"trace the {name}", "read", 1.5 * config.questions * length, done.exists())
        for name in ("old", "new")
        for done in [work / f"trace-{name}" / "trace.json"]
    ]
    for name in ("e", "t-old", "t-new"):
        done = (work / f"run-{name}" / "adapter").exists()
        found.append(Job(f"train {name}", "train", train, done))
    return [*found, Job("ask four explainers", "ask", 4 * ask)]


CONFIGS = {
    "smollm2": ("SmolLM2, on CPU", Config()),
    "tiny": ("a tiny random model, in seconds", TINY),
}

if __name__ == "__main__":
    command(main, CONFIGS)
