"""Input ablation, now: whether a target's answer hangs on a hint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx import data as own
from selfx.errors import SelfxError
from selfx.tasks.ablation import CALIBRATION_QUESTIONS, Ablating
from selfx.tasks.answering import asked_ids, count_tokens, letter_scores, written_letters
from selfx.tasks.example import Example
from selfx.tasks.now.asked import Asked, Desk, Place, Truth
from selfx.tasks.now.request import Request
from selfx.tasks.published import ablation_cell
from selfx.tasks.questions import LETTERS, Question, read_questions, user_prompt
from selfx.tasks.schema import ABLATION, HINTED_ANSWER
from selfx.tasks.split import split_of
from selfx.tasks.store import load_trace
from selfx.tasks.wording import (
    HINT,
    HINT_SYSTEM,
    answer_content,
    question_for_ablation,
    word,
)

_HINT = re.compile(re.escape(HINT).replace(re.escape("{letter}"), "([A-D])"))
_BATCH = 16
_LEVELS = "letters' mean logits"


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What the target is asked.

    Attributes:
      plain, hinted: without the hint and with it.
      answering: how its answers are had, where that was needed to ask.
    """

    plain: str
    hinted: str
    answering: _Answering | None = None


@dataclasses.dataclass(frozen=True)
class _Answering:
    """How a trace has its target answer.

    Attributes:
      levels: what is taken from the letters' scores, or None where the target writes.
    """

    levels: np.ndarray | None

    def scores(self, groups: Sequence[Sequence[str]], desk: Desk) -> list[np.ndarray]:
        """Float32 `[p, 4]` of each group of prompts: the letters' scores."""
        levels = 0 if self.levels is None else self.levels
        return [scored - levels for scored in letter_scores(desk.target, groups, _BATCH)]


def places(request: Request, desk: Desk) -> list[Place]:
    """Where the target is about to answer, if its states there are asked about."""
    return [_place(_prompts(request)[0], desk)] if _groups(request, desk) else []


def questions(request: Request, desk: Desk) -> list[Asked]:
    """One question without states, or one for each group of layers."""
    prompts, hint = _prompts(request)
    about = {"text": prompts.hinted, "hint": hint}
    groups = _groups(request, desk)
    if not groups:
        return [Asked(_example(prompts, hint), about, prompts)]
    states, answering = desk.seen[_place(prompts, desk)].states, _answering(desk)
    letter = LETTERS[answering.scores([[prompts.hinted]], desk)[0][0].argmax()]
    prompts = dataclasses.replace(prompts, answering=answering)
    return [
        Asked(
            _example(prompts, hint, letter, layers, states[list(layers)]),
            {**about, "layers": list(layers)},
            prompts,
        )
        for layers in groups
    ]


def truths(asked: Sequence[Asked], desk: Desk) -> list[Truth]:
    """What the target answers with and without each hint, as its traces have it answered."""
    groups = [[each.experiment.plain, each.experiment.hinted] for each in asked]
    answering = asked[0].experiment.answering or _answering(desk)
    if answering.levels is None:
        flat = [prompt for group in groups for prompt in group]
        written = iter(written_letters(desk.target, flat, _BATCH))
        return [_truth(next(written), next(written), {}) for _ in groups]
    return [_by_scores(plain, hinted) for plain, hinted in answering.scores(groups, desk)]


def _answering(desk: Desk) -> _Answering:
    """How the run's traces have it answer; without any, as a trace does unless told otherwise."""
    record = {} if desk.trace is None else load_trace(desk.trace)
    how = record.get("settings", {}).get("answering", Ablating.answering)
    if how == "generate":
        return _Answering(None)
    if how == "letters":
        return _Answering(np.zeros(len(LETTERS), np.float32))
    kept = record.get("letter_offsets")
    if kept is not None:
        return _Answering(np.asarray(kept, np.float32))
    if _LEVELS not in desk.measured:
        desk.measured[_LEVELS] = _measured(desk)
    return _Answering(desk.measured[_LEVELS])


def _groups(request: Request, desk: Desk) -> tuple[tuple[int, ...], ...]:
    """After which layers states are asked about: those given, or those that the run has learned."""
    for layers in request.groups:
        desk.check_layers(layers)
    learned = Ablating(states=desk.states).layers(desk.layers)
    return request.groups or ((learned,) if learned else ())


def _place(prompts: Prompts, desk: Desk) -> Place:
    ids = asked_ids(desk.target, prompts.hinted)
    return tuple(ids), len(ids) - 1


def _prompts(request: Request) -> tuple[Prompts, str]:
    if request.question:
        question = Question(0, request.question.strip(), request.choices, "")
        hinted = user_prompt(question, request.hint)
        return Prompts(user_prompt(question), hinted), request.hint
    found = _HINT.search(request.text)
    if found is None:
        raise SelfxError(
            f"a prompt without a hint: {request.text[-60:]!r}",
            expected=f"a text that ends in {HINT.format(letter='B')!r}",
            hint="--question TEXT --choices A B C D --hint B writes it",
        )
    plain = request.text[: found.start()] + request.text[found.end() :]
    return Prompts(plain, request.text), found[1]


def _by_scores(plain: np.ndarray, hinted: np.ndarray) -> Truth:
    facts = {
        "scores_without_hint": dict(zip(LETTERS, plain.tolist(), strict=True)),
        "scores_with_hint": dict(zip(LETTERS, hinted.tolist(), strict=True)),
    }
    return _truth(LETTERS[plain.argmax()], LETTERS[hinted.argmax()], facts)


def _truth(plain: str | None, hinted: str | None, facts: dict[str, Any]) -> Truth:
    facts = {"without_hint": plain, "with_hint": hinted, **facts}
    if plain is None or hinted is None:
        return Truth(facts=facts, note="the target writes no letter")
    content = answer_content(plain)
    return Truth(word(plain != hinted, content), plain != hinted, content, facts)


def _measured(desk: Desk) -> np.ndarray:
    """Float32 `[4]`: each letter's mean logit, over the questions that a trace takes unless told
    otherwise."""
    settings, (questions, _) = Ablating(), read_questions(own.questions_path())
    train = [q for q in questions if split_of(q.key, 0, settings.test_share) == "train"]
    asked = [
        [user_prompt(question)]
        for question in train[:CALIBRATION_QUESTIONS]
        if count_tokens(desk.target, user_prompt(question, "A")) <= settings.max_tokens
    ]
    if not asked:
        raise SelfxError(
            "no short question to calibrate the target's letters on",
            expected="a trace of the run's, which holds them",
            hint="--trace DIR",
        )
    desk.report(0, 1, f"{len(asked)} questions without a hint, to calibrate the letters on")
    return np.concatenate(letter_scores(desk.target, asked, _BATCH)).mean(axis=0)


def _example(
    prompts: Prompts,
    hint: str,
    letter: str = "",
    layers: tuple[int, ...] = (),
    states: np.ndarray | None = None,
) -> Example:
    told = {"hint_user_prompt": prompts.hinted, "layers": list(layers), HINTED_ANSWER: letter}
    return Example(
        id=hint,
        task=ABLATION,
        split="now",
        group=prompts.plain,
        cell=ablation_cell(hint),
        system="" if layers else HINT_SYSTEM,
        questions=(question_for_ablation(prompts.hinted, layers, letter),),
        answer="",
        changed=False,
        content="",
        vectors=states,
        details=told,
        layers=layers,
    )
