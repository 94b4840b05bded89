"""The whole path, small, on a real model: what `selfx quickstart` runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from selfx.data import text_path
from selfx.evaluation.answers.kinds import DESCRIPTIONS
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import write_report
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.table import score_table
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.optimization import Optimization
from selfx.explainer.training import Training
from selfx.features.exemplars.texts import read_texts
from selfx.features.training.packing import pack
from selfx.features.training.settings import SaeTraining
from selfx.features.training.train import train as train_saes
from selfx.models.parameters import parameter_count
from selfx.progress import progress
from selfx.tasks.trace import trace
from selfx.weights.load import LanguageModel, load

MODEL = "smollm2-135m-instruct"
QUICK = ("zero", "shuffled", "rotated")
"""Of the controls, each of which asks all questions again, those that say most."""
PLAIN = (
    "untrained",
    "majority",
    "majority-per-cell",
    "majority-verdict-per-cell",
    "nearest-text",
)
"""Of the baselines of verdicts, those that cost little."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """One task of the quickstart: what it asks, how much of it, how it is learned."""

    task: str
    why: str
    limit: int
    training: Training
    evaluation: Evaluation
    dictionary: SaeTraining | None = None
    """Of the features that are described, where they are."""


LESSONS = (
    Lesson(
        "activation-patching",
        "We carry an activation from one fact's text into another's and see whether the next token "
        "changes. The explainer gets the activation as one token of its prompt and must say what "
        "happened. Controls give it zeros, another example's activation, or a rotated one: only "
        "what is lost then was read from the activation.",
        limit=520,
        training=Training(
            epochs=2, batch_size=16, style="plain", optimization=Optimization(1e-3, "linear", 5)
        ),
        evaluation=Evaluation(QUICK, (*PLAIN, "nearest-vector", "probe"), 96, 24),
    ),
    Lesson(
        "input-ablation",
        "We ask a multiple-choice question with a hint, then without. The explainer sees the "
        "hinted question and must say what the answer would be without the hint.",
        limit=240,
        training=Training(
            epochs=2, batch_size=8, style="chat", optimization=Optimization(1e-3, "linear", 5)
        ),
        evaluation=Evaluation(QUICK, PLAIN, 70, 24),
    ),
    Lesson(
        "feature-description",
        "We train a small sparse dictionary on what the model computes, look for the texts that "
        "excite each of its directions, and put in words what they have in common. The explainer "
        "gets a direction as one token of its prompt and must say what excites it. What it says is "
        "scored by how well the true activations can be predicted from it.",
        limit=480,
        training=Training(
            epochs=6,
            batch_size=16,
            style="plain",
            injection="add",
            optimization=Optimization(1e-3, "linear", 5),
        ),
        evaluation=Evaluation(
            QUICK, tuple(name for name in DESCRIPTIONS.baselines if name != "few-shot"), 48, 48
        ),
        dictionary=SaeTraining(
            layers=(8,),
            widths=(1024,),
            ks=(16,),
            tokens=131_072,
            batch_size=1024,
            dead_after=50_000,
            buffer=16_384,
        ),
    ),
)


def quickstart(
    out: Path, model: str = MODEL, lessons: tuple[Lesson, ...] = LESSONS
) -> dict[str, Any]:
    """Traces, trains and evaluates each task; returns the scores, the report's path, the time.

    Args:
      out: where everything goes; traces and runs that are there already are not made again.
      model: target and explainer alike, so that it explains itself.
      lessons: the tasks and their sizes.
    """
    say = Console(stderr=True, highlight=False, soft_wrap=True).print
    began = time.monotonic()
    say(f"[bold]1. The model.[/] {model} is both the target that is studied and the explainer.")
    lm = load(model)
    say(f"   {parameter_count(lm.config) / 1e6:.0f} M parameters, {lm.config.n_layers} layers\n")
    scores = {
        lesson.task: _learn(lm, out, number, lesson, say)
        for number, lesson in enumerate(lessons, start=2)
    }
    page = out / "report.html"
    write_report(page, [load_evaluation(_folder(out, lesson, "scores")) for lesson in lessons])
    seconds = time.monotonic() - began
    say("[bold]What came out.[/] Percent, with 95 % bootstrap intervals.\n")
    for result in scores.values():
        say(score_table(result) + "\n")
    say(f"report: {page}\ntime: {seconds / 60:.1f} minutes")
    return {"scores": scores, "report": str(page), "seconds": round(seconds, 1)}


def _learn(lm: LanguageModel, out: Path, number: int, lesson: Lesson, say: Any) -> dict[str, Any]:
    """Traces, trains and evaluates one task; its scores."""
    say(f"[bold]{number}. {lesson.task}.[/] {lesson.why}")
    began = time.monotonic()
    data, run, scores = (_folder(out, lesson, name) for name in ("trace", "run", "scores"))
    options = _dictionary(lm, out, lesson, say)
    with progress("   running the experiments") as report:
        traced = trace(lesson.task, lm, data, limit=lesson.limit, progress=report, **options)
    counts = traced["counts"]
    say(f"   {counts['train']} examples to learn from, {counts['test']} held out")
    with progress("   training the explainer") as report:
        fit(lm, [data], run, lesson.training, report=report)
    with progress("   asking held-out questions") as report:
        result = evaluate(load_explainer(run, lm), data, scores, lesson.evaluation, report=report)
    say(f"   done in {(time.monotonic() - began) / 60:.1f} minutes: {scores}\n")
    return result


def _dictionary(lm: LanguageModel, out: Path, lesson: Lesson, say: Any) -> dict[str, Any]:
    """The setting that names the lesson's dictionary, trained first where it has one."""
    if lesson.dictionary is None:
        return {}
    folder = _folder(out, lesson, "dictionary")
    text = pack(lm.tokenizer, read_texts(text_path()))
    with progress("   training a dictionary") as report:
        trained = train_saes(lm, text, folder, lesson.dictionary, report=report)
    row = trained.rows[0]
    say(
        f"   a dictionary: {row['l0']:.0f} directions a token, {1 - row['fvu']:.0%} of the variance"
    )
    return {"dictionary": str(folder)}


def _folder(out: Path, lesson: Lesson, name: str) -> Path:
    return Path(out) / lesson.task / name
