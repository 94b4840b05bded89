"""Reading an explainer's answer: a verdict and a content out of free text, without ever raising.

The grammar (written by `selfx.tasks.wording.word`)::

    The output would remain unchanged from <<<X>>>.
    The most likely output would change to <<<Y>>>.

Forgiven are letter case, white space, quotes or emphasis before the brackets, a missing "most
likely" or full stop, brackets of the wrong number (`<<X>>`, `<<<X>>`), and any text around the
first answer. Not forgiven is an answer without brackets, or cut off before they close: its content
is unknown, so the whole answer is unparsable and counts as wrong.

A content may hold up to 1,000 characters of anything except `<<<` and `>>>`; it may begin with `<`
and end with `>`.
"""

import re
from dataclasses import dataclass

_VERDICT = re.compile(
    r"\b(?:(?P<unchanged>remain(?:s|ed)?\s+unchanged\s+from)|(?<!not\s)change[sd]?\s+to)"
    r"[\s:*_\"'`]*(?=<)",
    re.IGNORECASE,
)
# Stopping at the next `<<<` keeps one unclosed answer from swallowing the answer after it; the
# length bounds the time that a long degenerate answer can take.
_CONTENT = r"((?:(?!<<<).){0,1000}?)"
# From the exact grammar to the most forgiving. `(?!>)` leaves a content its own final `>`.
_BRACKETED = [
    re.compile(f"{opening}{_CONTENT}{closing}", re.DOTALL)
    for opening, closing in (("<<<", ">>>(?!>)"), ("<<<?", ">>+"), ("<{1,3}", ">+"))
]


@dataclass(frozen=True)
class Parsed:
    """What an answer says.

    Attributes:
        changed: The verdict; None where the answer is unparsable.
        content: The text between the brackets, untouched; None where the answer is unparsable.
        ok: Whether the answer could be read.
    """

    changed: bool | None
    content: str | None
    ok: bool


UNPARSABLE = Parsed(changed=None, content=None, ok=False)


def parse(text: str) -> Parsed:
    """Returns the first complete answer in the text, or `UNPARSABLE`."""
    for verdict in _VERDICT.finditer(text):
        content = _bracketed(text, verdict.end())
        if content is not None:
            return Parsed(changed=verdict["unchanged"] is None, content=content, ok=True)
    return UNPARSABLE


def _bracketed(text: str, start: int) -> str | None:
    """Returns the content of the brackets that open at `start`, or None."""
    matches = (pattern.match(text, start) for pattern in _BRACKETED)
    return next((match[1] for match in matches if match), None)


def normalise(content: str) -> str:
    """Returns the form in which contents are compared: casefolded, stripped, one final period less.

    The paper's released rule (`selfx.evaluation.answers.released`) is lower-case and strip, with no
    period gone but around the whole answer. Here one period goes, at the end, and never the last
    character: "." and "..." are different outputs.
    """
    text = content.casefold().strip()
    return text.removesuffix(".").rstrip() or text
