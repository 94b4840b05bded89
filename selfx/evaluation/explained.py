"""One question now, or several: asked of a run, and found out for certain if that is wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from selfx.errors import SelfxError
from selfx.evaluation.answers.judged import Judged, judge
from selfx.evaluation.answers.kinds import DESCRIPTIONS, kind_of
from selfx.explainer.answer import Explainer, load_explainer
from selfx.explainer.reply import Reply, Sureness, replies, sureness
from selfx.explainer.run import Run
from selfx.explainer.subject import hashes_of, load_target, tasks_of
from selfx.progress import Report, silent
from selfx.tasks.example import Example
from selfx.tasks.now.ask import questions, truths
from selfx.tasks.now.asked import Asked, Desk, Truth
from selfx.tasks.now.request import Request


@dataclasses.dataclass(frozen=True)
class Explained:
    """A question and all that came of it.

    Attributes:
      asked: the question.
      question: its text, as the explainer was asked it.
      reply: the answer.
      truth: what really happened, or None where nobody looked.
      judged: what the answer is worth.
      truth_sure: how likely the explainer finds the true answer, or None.
    """

    asked: Asked
    question: str
    reply: Reply
    truth: Truth | None = None
    judged: Judged = Judged()
    truth_sure: Sureness | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it; no vector."""
        reply = self.reply
        told = {
            "task": self.asked.example.task,
            "about": self.asked.about,
            "question": self.question,
            "answer": reply.text,
            "cut": reply.cut,
            **reply.sure.to_json(),
            "without_vector": None if reply.blind is None else reply.blind.to_json(),
        }
        return told | ({} if self.truth is None else {"verified": self._verified(self.truth)})

    def _verified(self, truth: Truth) -> dict[str, Any]:
        return {
            "right": self.judged.right,
            "answer": truth.answer,
            **truth.facts,
            **self.judged.scores,
            "probability": None if self.truth_sure is None else self.truth_sure.probability,
            "note": truth.note,
        }


@dataclasses.dataclass(frozen=True)
class Explanations:
    """What a run answered.

    Attributes:
      run: its folder.
      answers: in the order asked.
      warnings: what to bear in mind.
    """

    run: str
    answers: tuple[Explained, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`{"run", "warnings", "answers": [...]}`."""
        answers = [each.to_json() for each in self.answers]
        return {"run": self.run, "warnings": list(self.warnings), "answers": answers}

    def __rich__(self) -> Group:
        """A few lines for each answer."""
        lines = [f"note: {warning}" for warning in self.warnings]
        for number, each in enumerate(self.answers):
            lines += [""] * bool(number or lines) + _lines(each)
        return Group(*map(Text, lines))

    def __str__(self) -> str:
        """The same as plain text."""
        console = Console(width=110, color_system=None, soft_wrap=True)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def explain(
    run: str | Path,
    requests: Sequence[Request],
    *,
    verify: bool = False,
    target: str = "",
    trace: Path | None = None,
    max_new_tokens: int = 0,
    report: Report = silent,
) -> Explanations:
    """Returns what a run says to each request, in that order, and with `verify` whether it is so.

    Args:
      run: a finished run's folder.
      requests: what is asked.
      verify: find out what really happens.
      target: where the run's target is, if not where it was.
      trace: a trace that the run was trained on, for what its truths were measured with.
      max_new_tokens: where an answer is cut; 0 is as an evaluation does.
      report: told of progress.

    Raises:
      SelfxError: no finished run, a request that cannot be asked, a target that is not the run's.
    """
    if max_new_tokens < 0:
        raise SelfxError(f"max_new_tokens={max_new_tokens}", expected="0 or more")
    explainer, record = load_explainer(run), Run(Path(run)).record()
    desk = Desk(
        explainer.origin.width,
        explainer.origin.layers,
        lambda: load_target(record, explainer, target),
        states=next((t["states"] for t in record["traces"] if t.get("states")), ""),
        trace=trace,
        report=report,
    )
    made, desk = questions(requests, tasks_of(record), desk)
    asked = [each for several in made for each in several]
    answers = _answered(explainer, asked, max_new_tokens, report)
    if verify:
        answers = _verified(explainer, answers, truths(asked, desk), report)
    return Explanations(str(run), tuple(answers), _warnings(record, asked))


def _answered(
    explainer: Explainer, asked: Sequence[Asked], limit: int, report: Report
) -> list[Explained]:
    examples = [each.example for each in asked]
    room = limit or max(kind_of(example.task).room for example in examples)
    said = replies(explainer, examples, max_new_tokens=room, report=report)
    return [
        Explained(each, explainer.prompter.wordings(each.example)[0], reply)
        for each, reply in zip(asked, said, strict=True)
    ]


def _verified(
    explainer: Explainer, answers: Sequence[Explained], found: Sequence[Truth], report: Report
) -> list[Explained]:
    """Returns the answers beside the truth."""
    weighed = [row for row, truth in enumerate(found) if truth.answer]
    examples: list[Example] = [answers[row].asked.example for row in weighed]
    texts = [found[row].answer for row in weighed]
    size = min(8, len(texts)) or 1
    how = sureness(explainer, examples, texts, batch_size=size, report=report) if texts else []
    sure = dict(zip(weighed, how, strict=True))
    return [
        dataclasses.replace(
            each,
            truth=truth,
            judged=judge(each.asked.example, each.reply.text, truth),
            truth_sure=sure.get(row),
        )
        for row, (each, truth) in enumerate(zip(answers, found, strict=True))
    ]


def _warnings(record: dict[str, Any], asked: Sequence[Asked]) -> tuple[str, ...]:
    known, hashes = tasks_of(record), hashes_of(record)
    tasks = dict.fromkeys(each.example.task for each in asked)
    new = [f"the run was not trained on {task}" for task in tasks if task not in known]
    others = {each.about.get("target_hash") for each in asked} - {None} - hashes
    strange = ["an example is of another target than the run's"] if others and hashes else []
    return (*new, *strange)


_HIDDEN = ("target_hash",)


def _lines(each: Explained) -> list[str]:
    """Returns an answer in a few lines."""
    reply, about = each.reply, each.asked.about
    told = [f"{name} {_named(name, about[name])}" for name in about if name not in _HIDDEN]
    lines = [
        f"{each.asked.example.task}: {', '.join(told)}",
        f"  asked     {_indented(_short(each.question, 400))}",
        f"  answer    {_indented(reply.text)}" + (" …" if reply.cut else ""),
        f"  likely    {_share(reply.sure)}",
    ]
    if reply.blind is not None:
        lines.append(f"  zeros     {_share(reply.blind)}, the same answer without the vector")
    return lines + (_told(each, each.truth) if each.truth is not None else [])


def _told(each: Explained, truth: Truth) -> list[str]:
    lines = [f"  truth     {truth.answer or '-'}"] if truth.answer or truth.note else []
    facts = [f"{name} {_short(value)}" for name, value in truth.facts.items()]
    lines += [f"  measured  {', '.join(facts)}"] if facts else []
    lines += [f"  likely    {_share(each.truth_sure)}, the truth"] if each.truth_sure else []
    lines += [f"  note      {truth.note}"] if truth.note else []
    scores = [f"{name} {_short(value)}" for name, value in each.judged.scores.items()]
    lines += [f"  scores    {', '.join(scores)}"] if scores else []
    if each.judged.right is not None:
        lines.append(f"  verdict   {'right' if each.judged.right else 'wrong'}")
    elif kind_of(each.asked.example.task) is not DESCRIPTIONS:
        lines.append("  verdict   cannot be told")
    return lines


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 12)


def _named(name: str, value: Any) -> str:
    """Returns what a question is about; layers in a row by the first and the last."""
    layers = name == "layers" and len(value) > 2
    if layers and list(value) == list(range(value[0], value[-1] + 1)):
        return f"{value[0]}-{value[-1]}"
    return _short(value)


def _share(sure: Sureness) -> str:
    tokens = f"{sure.tokens} token{'s' * (sure.tokens != 1)}"
    return f"{sure.probability:.3g} ({sure.per_token:.3g} a token, {tokens})"


def _short(value: Any, most: int = 80) -> str:
    """Returns a value in words, no longer than `most` letters."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return " ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_short, value))
    text = str(value) if not isinstance(value, str) else repr(value) if most <= 80 else value
    return text if len(text) <= most else f"{text[: most - 1]}…"
