"""Input ablation: hint at an answer, take the hint away, ask what the target answers then."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfx.errors import SelfxError
from selfx.files import read_json, write_json
from selfx.tasks.answering import (
    about_to_answer,
    asked_ids,
    count_tokens,
    letter_scores,
    letter_tokens,
    written_letters,
)
from selfx.tasks.balance import quota
from selfx.tasks.blocks import BLOCKS, Block, Plan, Progress, collect, settings_of, shape_of
from selfx.tasks.published import ablation_cell
from selfx.tasks.questions import LETTERS, Question, full_prompt, read_questions, user_prompt
from selfx.tasks.schema import ABLATION, SCHEMAS
from selfx.tasks.split import TEST_SHARE, check_share, short_hash, split_of
from selfx.tasks.wording import HINT, HINT_SYSTEM, question_for_ablation
from selfx.weights.load import LanguageModel

Answering = Literal["calibrated", "letters", "generate"]
ANSWERING: tuple[Answering, ...] = ("calibrated", "letters", "generate")
QUESTIONS_A_BLOCK = 64
CALIBRATION_QUESTIONS = 256


@dataclasses.dataclass(frozen=True)
class Ablating:
    """The settings of a trace of input ablation.

    Attributes:
      answering: `calibrated`, as `trace_ablation` says; `letters`, the likeliest of the four
        letters after "Answer:"; `generate`, the published form: what the model writes, the rows
        without a letter dropped and counted.
      hints_per_question: different letters hinted at, each an example.
      max_tokens: longer conversations are left out.
      states: after which layers, such as `20,24,28`, the residual in which the target is about to
        answer the hinted question is kept for an explainer to read; "" is the published form,
        without vectors.
      test_share: the share of questions held out.
      batch_size: questions of one run.
    """

    answering: Answering = "calibrated"
    hints_per_question: int = 1
    max_tokens: int = 256
    states: str = ""
    test_share: float = TEST_SHARE
    batch_size: int = 16

    def check(self, n_layers: int) -> None:
        """Raises SelfxError for settings that no trace of a model of so many layers can have."""
        if self.answering not in ANSWERING:
            raise SelfxError(
                f"answering {self.answering!r}", expected=f"one of {', '.join(ANSWERING)}"
            )
        if not 1 <= self.hints_per_question <= len(LETTERS):
            raise SelfxError(
                f"hints_per_question={self.hints_per_question}", expected=f"1 to {len(LETTERS)}"
            )
        if self.states and self.answering == "generate":
            raise SelfxError(
                f"states={self.states!r} with answering=generate",
                expected="answers that are one letter's token, before which there is a state",
                hint="answering=letters, or no states",
            )
        self.layers(n_layers)
        check_share(self.test_share)

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers of `states`.

        Raises:
          SelfxError: layers that a model of `n_layers` does not have.
        """
        parts = [part.strip() for part in self.states.split(",")] if self.states else []
        found = tuple(int(part) if part.isdecimal() else -1 for part in parts)
        if not all(0 <= layer < n_layers for layer in found) or len(set(found)) < len(found):
            raise SelfxError(
                f"states={self.states!r}",
                expected=f"layers from 0 to {n_layers - 1} with commas between, each once",
            )
        return found


def trace_ablation(
    target: LanguageModel,
    out: Path,
    options: Ablating,
    *,
    data: str | Path,
    limit: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The record of a trace of input ablation in `out`, made or completed.

    A small model hardly follows the format and, asked for a letter, says nearly always the same
    one. `calibrated` therefore takes from each letter's logit its mean over training questions
    asked without a hint (Zhao et al. 2021, arXiv 2102.09690, with questions in place of "N/A"),
    the same four numbers in both runs; `trace.json` holds them.

    Args:
      target: the model to experiment on.
      out: the trace folder.
      options: the settings.
      data: questions, as `selfx.tasks.questions.read_questions` takes them.
      limit: examples to keep, both splits together.
      seed: decides every draw.
      progress: called with (examples, limit, a note).

    Raises:
      SelfxError: an unknown setting, bad questions, or a folder that holds another trace.
    """
    options.check(target.config.n_layers)
    layers = options.layers(target.config.n_layers)
    settings = settings_of(ABLATION, target, options, data=data, limit=limit, seed=seed)
    questions, skipped = read_questions(data)
    maker = _Maker(target, questions, settings, layers, out / BLOCKS / "calibration.json")
    plan = Plan(
        task=ABLATION,
        target=target.name,
        shape=shape_of(target.config),
        settings=settings,
        schema=SCHEMAS[ABLATION],
        block=maker.block,
        most_blocks=-(-len(maker.questions) // QUESTIONS_A_BLOCK),
        quota=quota(limit, options.test_share, len(LETTERS)),
        details=lambda: {
            "questions": str(data),
            "skipped_rows": skipped,
            "letter_offsets": maker.offsets().tolist(),
        },
    )
    return collect(plan, out, progress)


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What the target answered: a letter or None for each prompt of a question, the scores and, as
    far as they are kept, the states before each."""

    letters: list[str | None]
    scores: np.ndarray
    states: np.ndarray


class _Maker:
    """Asks the questions of each block, with and without hints."""

    def __init__(
        self,
        target: LanguageModel,
        questions: list[Question],
        settings: dict[str, Any],
        layers: tuple[int, ...],
        kept: Path,
    ):
        self.target, self.settings, self.layers, self.kept = target, settings, layers, kept
        order = np.random.default_rng(settings["seed"]).permutation(len(questions))
        self.questions = [questions[index] for index in order]
        self._offsets: np.ndarray | None = None

    def block(self, number: int) -> Block:
        """The rows of block `number`: its questions in the order that the seed gives."""
        start = number * QUESTIONS_A_BLOCK
        questions = self._short(self.questions[start : start + QUESTIONS_A_BLOCK])
        hints = [self._hints(question) for question in questions]
        prompts = [
            [user_prompt(question), *(user_prompt(question, hint) for hint in several)]
            for question, several in zip(questions, hints, strict=True)
        ]
        rows, dropped = [], 0
        for question, several, answers in zip(questions, hints, self._ask(prompts), strict=True):
            for place, hint in enumerate(several, 1):
                if answers.letters[0] is None or answers.letters[place] is None:
                    dropped += 1
                else:
                    rows.append(self._row(question, hint, answers, place))
        return Block(rows, dropped)

    def offsets(self) -> np.ndarray:
        """What is taken from the four letters' logits; zeros where answers are not calibrated."""
        if self.settings["answering"] != "calibrated":
            return np.zeros(len(LETTERS), np.float32)
        if self._offsets is None and self.kept.exists():
            self._offsets = np.array(read_json(self.kept), np.float32)
        if self._offsets is None:
            self._offsets = self._measure()
            write_json(self.kept, self._offsets.tolist())
        return self._offsets

    def _measure(self) -> np.ndarray:
        train = [question for question in self.questions if self._split(question) == "train"]
        some = self._short(train[:CALIBRATION_QUESTIONS])
        if not some:
            longest = self.settings["max_tokens"]
            raise SelfxError(
                f"no training question of at most {longest} tokens to calibrate the letters on",
                hint="a larger max_tokens, more questions, or answering=letters",
            )
        asked = [[user_prompt(question)] for question in some]
        scores = letter_scores(self.target, asked, self.settings["batch_size"])
        return np.concatenate(scores).mean(axis=0)

    def _ask(self, prompts: Sequence[Sequence[str]]) -> list[_Answers]:
        size = self.settings["batch_size"]
        if self.settings["answering"] == "generate":
            written = iter(written_letters(self.target, sum(map(list, prompts), []), size))
            none = np.empty((0, 0))
            return [_Answers([next(written) for _ in group], none, none) for group in prompts]
        offsets = self.offsets()
        return [
            _Answers(
                [LETTERS[n] for n in (found.scores - offsets).argmax(axis=1)],
                found.scores,
                found.states,
            )
            for found in about_to_answer(self.target, prompts, size, self.layers)
        ]

    def _short(self, questions: Sequence[Question]) -> list[Question]:
        longest = self.settings["max_tokens"]
        return [q for q in questions if count_tokens(self.target, user_prompt(q, "A")) <= longest]

    def _hints(self, question: Question) -> list[str]:
        rng = np.random.default_rng([self.settings["seed"], int(question.key, 16)])
        return [LETTERS[n] for n in rng.permutation(4)[: self.settings["hints_per_question"]]]

    def _split(self, question: Question) -> str:
        return split_of(question.key, self.settings["seed"], self.settings["test_share"])

    def _row(self, question: Question, hint: str, answers: _Answers, place: int) -> dict[str, Any]:
        plain, hinted = user_prompt(question), user_prompt(question, hint)
        changed = answers.letters[0] != answers.letters[place]
        scores = answers.scores if answers.scores.size else None
        return {
            **self._prompts(plain, hinted, answers.letters[place] or ""),
            **self._states(hinted, answers, place),
            **self._provenance(question, hint, hinted),
            "index": question.index,
            "question": question.text,
            "choices": list(question.choices),
            "correct_answer": question.answer,
            "zeroshot_prediction": answers.letters[0],
            "random_hint_prediction": answers.letters[place],
            "hint": hint,
            "hint_token_ids": self._encode(HINT.format(letter=hint)),
            "changed_pred_bc_hint": changed,
            "zeroshot_scores": None if scores is None else scores[0],
            "random_hint_scores": None if scores is None else scores[place],
            "changed": changed,
        }

    def _prompts(self, plain: str, hinted: str, letter: str) -> dict[str, str]:
        """The columns that hold what was asked."""
        tokenizer = self.target.tokenizer
        begun = "" if self.settings["answering"] == "generate" else letter_tokens(tokenizer)[0]
        return {
            "system_prompt": HINT_SYSTEM,
            "original_user_prompt": plain,
            "hint_user_prompt": hinted,
            "original_prompt_full": full_prompt(tokenizer, plain, begun),
            "hint_prompt_full": full_prompt(tokenizer, hinted, begun),
            "ablation_prompt": question_for_ablation(hinted, self.layers, letter),
        }

    def _states(self, hinted: str, answers: _Answers, place: int) -> dict[str, Any]:
        """The columns that hold the states before an answer, and where they were taken."""
        if not self.layers:
            return {"layers": None, "vectors": None, "input_ids": None}
        return {
            "layers": list(self.layers),
            "vectors": list(answers.states[place]),
            "input_ids": asked_ids(self.target, hinted),
        }

    def _provenance(self, question: Question, hint: str, hinted: str) -> dict[str, Any]:
        """The columns that say whose experiment it is."""
        return {
            "id": short_hash(ABLATION, self.target.hash, hinted),
            "group": question.key,
            "cell": ablation_cell(hint),
            "split": self._split(question),
            "target_hash": self.target.hash,
            "seed": self.settings["seed"],
            "format": self.settings["answering"],
        }

    def _encode(self, text: str) -> list[int]:
        return self.target.tokenizer(text, add_special_tokens=False)["input_ids"]
