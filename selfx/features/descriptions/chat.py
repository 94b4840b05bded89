"""Chat models: one behind an OpenAI-compatible endpoint, or one that runs here.

A chat model is any callable from conversations to answers. `Endpoint` speaks plain HTTP, so no
client library is needed; it keeps every answer on disk under a hash of what was asked, tries again
what may pass, tells before it starts what it may cost, and raises with all finished work kept.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from selfx.errors import SelfxError
from selfx.features.descriptions.post import Refused, post_json
from selfx.files import write_json
from selfx.interventions.batching import chunks, pad
from selfx.models.generate import generate
from selfx.progress import Report, silent
from selfx.weights.load import LanguageModel

Messages = Sequence[dict[str, str]]
"""A conversation: `{"role": ..., "content": ...}`, the last one to be answered."""

LETTERS_A_TOKEN = 4
"""About what an English token is long; for the estimate of costs only."""


class Chat(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """What descriptions by it are signed with."""
        ...

    def __call__(self, conversations: Sequence[Messages]) -> list[str]:
        """An answer to each, in order."""
        ...


def user(text: str) -> Messages:
    """A conversation of one question."""
    return ({"role": "user", "content": text},)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What asking will take, as far as can be told before.

    Attributes:
      asked: how many conversations.
      kept: how many of them are answered on disk already.
      read: about how many tokens the endpoint will read.
      written: at most how many it will write.
      dollars: at most, or None where no price is given.
    """

    asked: int
    kept: int
    read: int
    written: int
    dollars: float | None

    @property
    def text(self) -> str:
        """The cost in words."""
        price = "no price given" if self.dollars is None else f"at most ${self.dollars:.2f}"
        return (
            f"{self.asked} questions, {self.kept} of them answered already; the rest: about "
            f"{self.read} tokens to read, at most {self.written} to write; {price}"
        )


def say(text: str) -> None:
    """Prints to stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A chat model behind an OpenAI-compatible endpoint.

    Attributes:
      url: where it is, up to and without `/chat/completions`, such as `http://localhost:8000/v1`.
      model: its name there.
      cache: the folder of answers.
      key_variable: the environment variable that holds the key; it is never written anywhere.
      temperature: 0 for the likeliest answer.
      max_tokens: where an answer is cut.
      prices: dollars a million tokens, read and written, or None.
      tries: how often to ask before giving up.
      wait: seconds before the second try; doubled each time.
      timeout: seconds to wait for an answer.
      workers: questions at once.
      blank: whether an answer without text is one; if not, it is asked for again.
      announce: told of the cost before anything is asked.
      report: told of progress.
    """

    url: str
    model: str
    cache: Path
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    max_tokens: int = 200
    prices: tuple[float, float] | None = None
    tries: int = 5
    wait: float = 1.0
    timeout: float = 60.0
    workers: int = 4
    blank: bool = False
    announce: Callable[[str], None] = say
    report: Report = silent

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def cost(self, conversations: Sequence[Messages]) -> Cost:
        """What answering these will take, before anything is asked."""
        open_ones = [each for each in conversations if self._kept(each) is None]
        letters = sum(len(message["content"]) for each in open_ones for message in each)
        read, written = -(-letters // LETTERS_A_TOKEN), self.max_tokens * len(open_ones)
        dollars = None
        if self.prices is not None:
            dollars = (read * self.prices[0] + written * self.prices[1]) / 1e6
        kept = len(conversations) - len(open_ones)
        return Cost(len(conversations), kept, read, written, dollars)

    def __call__(self, conversations: Sequence[Messages]) -> list[str]:
        """An answer to each conversation; those on disk are not asked again.

        Raises:
          SelfxError: the endpoint cannot be reached, refuses, or answers with something else; what
            it had answered is kept.
        """
        cost = self.cost(conversations)
        if cost.kept < cost.asked:
            self.announce(f"{self.model}: {cost.text}")
        answers: dict[int, str] = {}
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            running = {pool.submit(self._answer, each): i for i, each in enumerate(conversations)}
            try:
                for future in concurrent.futures.as_completed(running):
                    answers[running[future]] = future.result()
                    self.report(len(answers), len(conversations), self.model)
            except Refused as error:
                pool.shutdown(cancel_futures=True)
                raise self._failed(error, conversations) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [answers[index] for index in range(len(conversations))]

    def _answer(self, messages: Messages) -> str:
        kept = self._kept(messages)
        if kept is not None:
            return kept
        body = self._body(messages)
        key = os.environ.get(self.key_variable)
        url = f"{self.url.rstrip('/')}/chat/completions"
        answer = post_json(
            url,
            body,
            key,
            read=functools.partial(_content, blank=self.blank),
            tries=self.tries,
            wait=self.wait,
            timeout=self.timeout,
        )
        write_json(self._path(messages), {"request": body, "answer": answer})
        return answer

    def _body(self, messages: Messages) -> dict[str, Any]:
        settings = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, "messages": list(messages), **settings}

    def _path(self, messages: Messages) -> Path:
        asked = json.dumps([self.url, self._body(messages)], sort_keys=True)
        return Path(self.cache) / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def _kept(self, messages: Messages) -> str | None:
        """The answer on disk; None where there is none, or none that can be read."""
        try:
            answer = json.loads(self._path(messages).read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def _failed(self, error: Refused, conversations: Sequence[Messages]) -> SelfxError:
        kept = sum(self._kept(each) is not None for each in conversations)
        return SelfxError(
            f"{self.url} gave no answer for {self.model!r}: {error}",
            expected="an OpenAI-compatible endpoint",
            hint=f"run the same again: {kept} of {len(conversations)} answers are kept in "
            f"{self.cache}",
        )


def _content(answer: Any, *, blank: bool) -> str:
    """The text of a completion; ValueError for anything else."""
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("an answer without choices[0].message.content") from None
    if blank and text is None:  # what a filter held back, or a reply cut before its first word
        return ""
    if not isinstance(text, str) or not (blank or text.strip()):
        raise ValueError("an answer without text")
    return text


@dataclasses.dataclass(frozen=True)
class LocalChat:
    """A chat model that runs here, greedily.

    Attributes:
      lm: the model; its tokenizer must have a chat template.
      max_new_tokens: where an answer is cut.
      batch_size: conversations at once.
    """

    lm: LanguageModel
    max_new_tokens: int = 60
    batch_size: int = 8

    @property
    def name(self) -> str:
        """The model's name."""
        return self.lm.name

    def __call__(self, conversations: Sequence[Messages]) -> list[str]:
        """An answer to each conversation.

        Raises:
          SelfxError: the model has no chat template, or not enough room.
        """
        tokenizer = self.lm.tokenizer
        if not tokenizer.chat_template:
            raise SelfxError(f"{self.lm.name} has no chat template", hint="take a chat model")
        texts = [
            tokenizer.apply_chat_template(list(each), add_generation_prompt=True, tokenize=False)
            for each in conversations
        ]
        rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        longest = max(map(len, rows), default=0) + self.max_new_tokens
        if longest > self.lm.config.max_positions:
            raise SelfxError(
                f"{longest} tokens of question and answer",
                expected=f"at most {self.lm.config.max_positions}",
                hint="fewer or shorter examples",
            )
        return [answer for some in chunks(rows, self.batch_size) for answer in self._batch(some)]

    def _batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        tokens, mask = pad(rows, self.batch_size)
        out = generate(
            self.lm.model,
            tokens,
            mask=mask,
            end_ids=self.lm.eos_ids,
            max_new_tokens=self.max_new_tokens,
        )
        written = (row[row >= 0] for row in out.tokens[: len(rows)])
        decode = self.lm.tokenizer.decode
        return [str(decode(row, skip_special_tokens=True)).strip() for row in written]
