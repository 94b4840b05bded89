"""Rules: plain phrases that say at which tokens a feature is on, and that can be checked.

    "seven"                    the token itself, spaces aside
    forms of "pay"             any token of a word with the same stem
    words ending in "ing"      the token that ends such a word
    words beginning with "un"  the token that begins such a word
    digits                     a class of `selfx.features.descriptions.words.CLASSES`
    text that mentions "war"   every token from the first such word on
    everything                 every token
    X after Y                  X where the token before is Y

`phrase` and `parse` are each other's inverse, so a description in this wording can be checked
without a model; in any other wording `parse` reads what it can: quoted tokens, names of classes,
and bare words.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from selfx.features.descriptions.words import CLASSES, Reading, stem

Kind = Literal["token", "word", "ending", "beginning", "class", "mention", "everything"]

_FORMS: dict[str, str] = {
    "word": 'forms of "{}"',
    "ending": 'words ending in "{}"',
    "beginning": 'words beginning with "{}"',
    "mention": 'text that mentions "{}"',
    "token": '"{}"',
    "class": "{}",
    "everything": "everything",
}

ALIASES: dict[str, str] = {
    "numbers": "digits",
    "numerals": "digits",
    "numerical values": "digits",
    "digit": "digits",
    "number": "digits",
    "punctuation marks": "punctuation",
    "capital letters": "capitalised words",
    "capitalized words": "capitalised words",
    "proper nouns": "capitalised words",
    "names": "capitalised words",
    "dates": "years",
    "year": "years",
    "month": "months",
    "days of the week": "weekdays",
    "newlines": "line breaks",
    "whitespace": "spaces",
    "parentheses": "brackets",
    "hyphens": "dashes",
    "definite articles": "articles",
    "pronoun": "pronouns",
    "preposition": "prepositions",
    "conjunction": "conjunctions",
    "colors": "colours",
    "negation": "negations",
    "interrogatives": "question words",
    "programming symbols": "code symbols",
    "uppercase": "words in capitals",
}
"""Other wordings of classes, as descriptions from elsewhere have them."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A set of tokens.

    Attributes:
      kind: as in the module's table.
      value: what stands in its quotation marks, or the class.
      after: what the token before must be, or None.
    """

    kind: Kind
    value: str = ""
    after: Rule | None = None

    @property
    def phrase(self) -> str:
        """The rule in words."""
        own = _FORMS[self.kind].format(self.value)
        return own if self.after is None else f"{own} after {self.after.phrase}"

    def holds(self, text: Reading) -> np.ndarray:
        """bool `[t]`: the tokens that are meant."""
        here = _own(self, text)
        if self.after is None:
            return here
        before = np.zeros_like(here)
        before[1:] = self.after.holds(text)[:-1]
        return here & before


def _own(rule: Rule, text: Reading) -> np.ndarray:
    value = rule.value
    match rule.kind:
        case "token":
            return np.array([bare == value for bare in text.bare], bool)
        case "class":
            return text.is_a(value)
        case "word":
            return _same_stem(value, text)
        case "mention":
            return np.logical_or.accumulate(_same_stem(value, text))
        case "ending":
            return text.last & _in_words(text, lambda word: word.endswith(value) and word != value)
        case "beginning":
            return text.first & _in_words(
                text, lambda word: word.startswith(value) and word != value
            )
    return np.ones(len(text.bare), bool)


def _same_stem(value: str, text: Reading) -> np.ndarray:
    wanted = stem(value)
    return _in_words(text, lambda word: bool(word) and stem(word) == wanted)


def _in_words(text: Reading, holds: Callable[[str], bool]) -> np.ndarray:
    """bool `[t]`: what holds of each token's word in small letters."""
    words, which = text.vocabulary
    return np.fromiter(map(holds, words), bool, len(words))[which]


def _alternatives() -> str:
    names = sorted((*CLASSES, *ALIASES), key=len, reverse=True)
    forms = (
        rf'(?P<{kind}>{form.format("").removesuffix(chr(34))}([^"\n]+)")'
        for kind, form in _FORMS.items()
        if '"' in form
    )
    classes = "|".join(map(re.escape, names))
    return "|".join((*forms, rf"(?P<class>\b(?:{classes})\b)", r"(?P<everything>\beverything\b)"))


PATTERN = re.compile(_alternatives(), re.IGNORECASE)
"""One rule without what it stands after."""

_AFTER = re.compile(r"\s+after\s+", re.IGNORECASE)


def rule_at(match: re.Match[str], text: str) -> tuple[Rule, int]:
    """The rule that a match of `PATTERN` begins, and where in the text it ends."""
    rule, end = _plain(match), match.end()
    joint = _AFTER.match(text, end)
    if joint is None:
        return rule, end
    before = PATTERN.match(text, joint.end())
    if before is None or before.lastgroup == "mention":
        return rule, end
    return dataclasses.replace(rule, after=_plain(before)), before.end()


def _plain(match: re.Match[str]) -> Rule:
    kind: Any = next(name for name, found in match.groupdict().items() if found is not None)
    found = match.group(kind)
    if kind == "class":
        name = found if found in CLASSES else ALIASES.get(found.lower(), found)
        return Rule("class", next(c for c in CLASSES if c.lower() == name.lower()))
    if kind == "everything":
        return Rule("everything")
    value = found[found.index('"') + 1 : -1]
    return Rule(kind, value if kind == "token" else value.lower())
