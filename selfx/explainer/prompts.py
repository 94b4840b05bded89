"""From a question to tokens: markers, placeholder, chat template, and the answer's end."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.tasks.example import SLOT, Example
from selfx.tasks.withheld import PARTS, withheld

Style = Literal["chat", "plain"]

MARKERS: tuple[tuple[str, str, str], ...] = (
    # (begin, slot, end): reserved tokens that a model's own text never uses
    (  # Llama 3, as in the paper
        "<|reserved_special_token_10|>",
        "<|reserved_special_token_12|>",
        "<|reserved_special_token_11|>",
    ),
    ("<|vision_start|>", "<|vision_pad|>", "<|vision_end|>"),  # Qwen, as in the paper
    ("<issue_start>", "<empty_output>", "<issue_closed>"),  # SmolLM2
    ("<begin>", "<slot>", "<end>"),  # selfx.testing
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question as the explainer reads it.

    Attributes:
      ids: its tokens.
      slots: the positions of the placeholders, one for each of the example's vectors.
    """

    ids: tuple[int, ...]
    slots: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Prompter:
    """Turns questions and answers into tokens for one explainer.

    Attributes:
      tokenizer: the explainer's.
      style: `chat` through the tokenizer's template; `plain` is the question and a newline, as the
        paper does with base models.
      markers: the tokens `(begin, slot, end)`.
      end_id: the token that ends an answer, which training teaches too.
      withhold: parts of questions that it never reads, names in `selfx.tasks.withheld.PARTS`.
    """

    tokenizer: Any
    style: Style
    markers: tuple[str, str, str]
    end_id: int
    withhold: tuple[str, ...] = ()

    def prompt(self, example: Example, wording: int = 0) -> Prompt:
        """The example's question in one of its wordings, a placeholder for each of its vectors.

        Raises:
          SelfxError: there are more or fewer places for vectors than vectors.
        """
        wordings = self.wordings(example)
        text = wordings[wording % len(wordings)]
        vectors = 0 if example.vectors is None else len(example.vectors)
        begin, slot, end = self.markers
        places = text.count(SLOT)
        if places not in (1 if vectors else 0, vectors):
            raise SelfxError(
                f"{places} times {SLOT} in the question of example {example.id}",
                expected=f"{vectors}, its number of vectors" + (", or 1 for all" * (vectors > 1)),
                hint=f"a target text that itself contains {SLOT} cannot be used",
            )
        text = text.replace(SLOT, begin + slot * (vectors if places == 1 else 1) + end)
        ids = self._encode(self._frame(example, text))
        slot_id = self.tokenizer.convert_tokens_to_ids(slot)
        slots = tuple(index for index, token in enumerate(ids) if token == slot_id)
        if len(slots) != vectors:
            raise SelfxError(
                f"{len(slots)} placeholders in the prompt of example {example.id}",
                expected=f"{vectors}",
                hint=f"a target text that itself contains {slot} cannot be used",
            )
        return Prompt(tuple(ids), slots)

    def wordings(self, example: Example) -> tuple[str, ...]:
        """The texts that the example may be asked in: a base model is given sentences to end."""
        example = self.told(example)
        return example.openings if self._opens(example) else example.questions

    def told(self, example: Example) -> Example:
        """The example as far as its question is told to this explainer."""
        return functools.reduce(withheld, self.withhold, example)

    def answer(self, example: Example) -> tuple[int, ...]:
        """The true answer's tokens and the one that ends it.

        The space between a sentence and its end is the answer's, as tokenizers have it.
        """
        return self.said(example, example.answer)

    def said(self, example: Example, answer: str) -> tuple[int, ...]:
        """The tokens of some answer to the example's question, and the one that ends it."""
        text = f" {answer}" if self._opens(example) else answer
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_id)

    def _opens(self, example: Example) -> bool:
        return self.style == "plain" and bool(example.openings)

    def _frame(self, example: Example, text: str) -> str:
        system = example.system
        if self._opens(example):
            return text
        if self.style == "plain":
            return f"{system}\n\n{text}\n" if system else f"{text}\n"
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": text})
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _encode(self, text: str) -> list[int]:
        special = self.style == "plain"  # a chat template writes its own
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])


def check_withheld(parts: tuple[str, ...]) -> None:
    """Raises SelfxError for parts that cannot be left out of what an explainer reads."""
    known = [part for part in PARTS if part != "vector"]
    for part in parts:
        if part not in known or parts.count(part) > 1:
            raise SelfxError(
                f"withhold {' '.join(parts)}",
                expected=f"some of {', '.join(known)}, each once",
                hint="--blind takes vectors away" if part == "vector" else "",
            )


def make_prompter(
    tokenizer: Any, end_ids: tuple[int, ...], style: Style, withhold: tuple[str, ...] = ()
) -> Prompter:
    """The prompter for a tokenizer.

    Raises:
      SelfxError: no free markers, no token to end an answer, or `chat` without a template.
    """
    if style == "chat" and not tokenizer.chat_template:
        raise SelfxError("a tokenizer without a chat template", hint="--style plain")
    if not end_ids:
        raise SelfxError("a model that names no end token", expected="eos_token_id in its config")
    own = tokenizer.eos_token_id  # of several, the one that this model itself ends a turn with
    end_id = own if own in end_ids else end_ids[0]
    vocabulary = tokenizer.get_vocab()
    for markers in MARKERS:
        if all(marker in vocabulary for marker in markers):
            return Prompter(tokenizer, style, markers, end_id, withhold)
    raise SelfxError(
        "a tokenizer without reserved tokens for the placeholder",
        expected=" or ".join(" ".join(markers) for markers in MARKERS),
        hint="add a triple of its unused special tokens to selfx.explainer.prompts.MARKERS",
    )


def check_room(tokens: int, config: Config) -> None:
    """Raises SelfxError where a question and its answer are longer than the explainer reads."""
    if tokens > config.max_positions:
        raise SelfxError(
            f"a question and its answer of {tokens} tokens",
            expected=f"at most {config.max_positions}, the explainer's context",
            hint="trace shorter texts, or take an explainer with a longer context",
        )
