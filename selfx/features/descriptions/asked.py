"""What a chat model is asked about features: to describe one, to write texts for a description.

Answers are text from outside: they are cut to clean lines of bounded length.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from selfx.features.descriptions.chat import Chat, Messages, user
from selfx.features.descriptions.describe import Description
from selfx.features.exemplars.excerpts import Evidence, Excerpt

LONGEST = 400
"""Letters of a description that are kept."""

SHOWN = 10
_ON = 0.25
_AROUND = 24

_DESCRIBE = """\
A feature inside a language model responds to something in text. Below are stretches of text in \
which it responds most, then some in which it does not respond. Tokens that it responds to stand \
between << and >>, each followed by how strongly, from 1 to 10.

It responds here:
{on}

It does not respond here:
{off}

{outputs}Say in one short phrase what the feature responds to. Be as specific as the examples \
allow, and cover all of them. Answer with the phrase alone."""

_WRITE = """\
A feature of a language model is described so: {description}

Write {count} different short texts, of one or two sentences each, in which this feature should \
respond as strongly as possible. Write each on a line of its own, without numbering and without \
any other words."""

_NUMBERED = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s+")


@dataclasses.dataclass(frozen=True)
class ChatDescriber:
    """A describer that asks a chat model.

    Attributes:
      chat: who is asked.
      shown: how many texts of each side it sees.
    """

    chat: Chat
    shown: int = SHOWN

    def __call__(self, evidence: Evidence) -> Description:
        """The description of one feature."""
        return self.many([evidence])[0]

    def many(self, evidence: Sequence[Evidence]) -> list[Description]:
        """The descriptions of several features, asked together."""
        answers = self.chat([self.question(each) for each in evidence])
        return [Description(first_line(answer), self.chat.name) for answer in answers]

    def question(self, evidence: Evidence) -> Messages:
        """What is asked about a feature."""
        on = sorted(evidence.of("top"), key=lambda text: -text.peak)[: self.shown]
        off = [text for text in evidence.of("random") if text.peak == 0][: self.shown]
        outputs = ""
        if evidence.promoted:
            named = ", ".join(f"{token!r}" for token in evidence.promoted)
            outputs = f"When it responds it makes these tokens likelier: {named}.\n\n"
        parts = {
            "on": "\n".join(shown(text, evidence.peak) for text in on) or "(no example)",
            "off": "\n".join(shown(text, evidence.peak) for text in off) or "(no example)",
        }
        return user(_DESCRIBE.format(outputs=outputs, **parts))


def shown(text: Excerpt, peak: float) -> str:
    """The tokens around a text's highest activation, on one line, those that are on marked."""
    at = int(text.activations.argmax()) if len(text.activations) else 0
    window = range(max(0, at - _AROUND), min(len(text.pieces), at + _AROUND // 2))
    return "- " + " ".join("".join(_marked(text, place, peak) for place in window).split())


def _marked(text: Excerpt, place: int, peak: float) -> str:
    share = float(text.activations[place]) / peak if peak > 0 else 0.0
    piece = text.pieces[place]
    if share < _ON or not piece.strip():
        return piece
    space = piece[: len(piece) - len(piece.lstrip())]
    return f"{space}<<{piece.strip()}>>({max(1, round(10 * share))})"


def first_line(answer: str) -> str:
    """The first line with words, printable, of bounded length, quotation marks around it off."""
    lines = (" ".join(line.split()) for line in answer.splitlines())
    line = next((line for line in lines if any(c.isalnum() for c in line)), "")
    clean = "".join(c for c in line if c.isprintable()).strip()
    if len(clean) > 1 and clean[0] == clean[-1] == '"' and clean.count('"') == 2:
        clean = clean[1:-1].strip()
    return clean[:LONGEST]


@dataclasses.dataclass(frozen=True)
class ChatWriter:
    """Writes texts for descriptions by asking a chat model."""

    chat: Chat

    def __call__(self, descriptions: Sequence[str], count: int) -> list[list[str]]:
        """At most `count` texts for each description."""
        questions = [_WRITE.format(description=each, count=count) for each in descriptions]
        answers = self.chat([user(question) for question in questions])
        return [_lines(answer)[:count] for answer in answers]


def _lines(answer: str) -> list[str]:
    lines = (_NUMBERED.sub("", line).strip() for line in answer.splitlines())
    return [line[: 4 * LONGEST] for line in lines if line]
