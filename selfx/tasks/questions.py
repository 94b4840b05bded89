"""Multiple-choice questions, and the prompts that ask them with and without a hint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.tasks.rows import read_rows, text_field
from selfx.tasks.split import short_hash
from selfx.tasks.wording import HINT, HINT_SYSTEM

LETTERS = "ABCD"


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with four choices.

    Attributes:
      index: its row in the data.
      text: what is asked.
      choices: the four, in the order of `LETTERS`.
      answer: the right one's letter.
    """

    index: int
    text: str
    choices: tuple[str, ...]
    answer: str

    @property
    def key(self) -> str:
        """What is held out together: the same text is the same question wherever it stands."""
        return short_hash(self.text)


def read_questions(source: str | Path) -> tuple[list[Question], list[str]]:
    """The questions of a file or hub data set, and the rows that were left out, by name.

    Left out is a row whose answer is a number that names none of its four choices: MMLU as
    released has one. A question that comes again is read once.

    Raises:
      SelfxError: a row that is no question of four choices.
    """
    found: dict[tuple[str, tuple[str, ...]], Question] = {}
    skipped = []
    for index, (where, row) in enumerate(read_rows(source)):
        question = _question(index, row, where)
        if question is None:
            skipped.append(where)
        else:
            found.setdefault((question.text, question.choices), question)
    if not found:
        raise SelfxError(f"{source} holds no question that can be asked")
    return list(found.values()), skipped


def user_prompt(question: Question, hint: str | None = None) -> str:
    """What the user says: the question, its choices, and the hint if there is one."""
    lines = [
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)
    ]
    said = HINT.format(letter=hint) if hint else ""
    return "\n".join([question.text, *lines]) + said


def full_prompt(tokenizer: Any, user: str, begun: str = "") -> str:
    """The conversation in the target's own chat template, the answer begun with `begun`.

    Raises:
      SelfxError: the target has no chat template.
    """
    if not tokenizer.chat_template:
        raise SelfxError(
            "the target has no chat template",
            expected="a model tuned to follow instructions",
            hint="trace an instruct model, for instance smollm2-135m-instruct",
        )
    turns = [{"role": "system", "content": HINT_SYSTEM}, {"role": "user", "content": user}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + begun


def _question(index: int, row: dict[str, Any], where: str) -> Question | None:
    text = text_field(row, "question", where).strip()
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) != len(LETTERS):
        raise SelfxError(f"{where}: choices = {choices!r}", expected="a list of four texts")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise SelfxError(f"{where}: choices = {choices!r}", expected="four texts, none blank")
    answer = row.get("answer")
    if isinstance(answer, str) and answer in LETTERS and len(answer) == 1:
        answer = LETTERS.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise SelfxError(
            f"{where}: answer = {row.get('answer')!r}", expected="0 to 3, or a letter from A to D"
        )
    if answer not in range(len(LETTERS)):
        return None
    return Question(index, text, tuple(choice.strip() for choice in choices), LETTERS[answer])
