"""A judge by its name: where it is to be asked, or what it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

from selfx.errors import SelfxError
from selfx.evaluation.answers.simulated import load_embedder, model_or_run
from selfx.evaluation.judge.belief import BeliefJudge
from selfx.evaluation.judge.kept import RATINGS
from selfx.evaluation.judge.raters import ChatJudge, Judge, SimilarityJudge
from selfx.evaluation.judge.rating import digest
from selfx.evaluation.judge.work import Work
from selfx.features.descriptions.chat import Endpoint, LocalChat

SIMILARITY = "similarity"
FORMS = ("http(s)://… with --model", "a model or run", SIMILARITY)


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a judge is asked.

    Attributes:
      model: an endpoint's name for the model.
      cache: the folder of an endpoint's answers; None is one beside the ratings.
      key_variable: the environment variable with an endpoint's key.
      prices: dollars a million tokens, read and written, or None.
      max_tokens: where a reply is cut.
      greedy: of a model that runs here, read what it writes, not how likely it finds each rating.
      batch_size: questions at once of a model that runs here.
    """

    model: str = ""
    cache: Path | None = None
    key_variable: str = "OPENAI_API_KEY"
    prices: tuple[float, float] | None = None
    max_tokens: int = 10
    greedy: bool = False
    batch_size: int = 8


def load_judge(name: str, work: Work, asking: Asking = Asking()) -> Judge:
    """The judge that is meant.

    Args:
      name: `http://…` or `https://…`, an OpenAI-compatible endpoint up to and without
        `/chat/completions`; `similarity`; or a model or run, asked here.
      work: what it is to judge.
      asking: how it is asked.

    Raises:
      SelfxError: an endpoint without a model, or no such model.
    """
    if name.startswith(("http://", "https://")):
        return _endpoint(name, work, asking)
    if asking.model:
        raise SelfxError(f"judge {name!r} with --model", expected=f"one of {', '.join(FORMS)}")
    if name == SIMILARITY:
        embedder, about = load_embedder(work.descriptions)
        return SimilarityJudge(embedder, {"kind": SIMILARITY, **about})
    return _local(name, asking)


def _endpoint(url: str, work: Work, asking: Asking) -> Judge:
    if not asking.model or not urlsplit(url).hostname:
        raise SelfxError(
            f"judge {url!r}, model {asking.model!r}",
            expected="an endpoint, and the name of a model there",
            hint="--judge https://host/v1 --model NAME",
        )
    chat = Endpoint(
        url,
        asking.model,
        asking.cache or work.folder / RATINGS / ".answers",
        key_variable=asking.key_variable,
        prices=asking.prices,
        max_tokens=asking.max_tokens,
        blank=True,
    )
    about = {
        "kind": "endpoint",
        "url": url,
        "model": asking.model,
        "temperature": chat.temperature,
        "max_tokens": asking.max_tokens,
        "prompt": digest(),
    }
    return ChatJudge(chat, asking.model, about)


def _local(name: str, asking: Asking) -> Judge:
    lm, who = model_or_run(name)
    how = "greedy" if asking.greedy else "expected"
    about = {"kind": how, **who, "prompt": digest()}
    short = f"{name.rstrip('/').split('/')[-1]}, {how}"
    if not asking.greedy:
        return BeliefJudge(lm, short, about, asking.batch_size)
    chat = LocalChat(lm, asking.max_tokens, asking.batch_size)
    return ChatJudge(chat, short, about | {"max_tokens": asking.max_tokens})
