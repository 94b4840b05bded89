"""A text's tokens and what can be said of each by looking: its word, its class, where it stands.

English closed classes are listed; everything else is told by its letters. A class is what a word
looks like or belongs to, never what it is thought to mean.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("ly", ""), ("s", ""))
_OPENERS = " \t\"'“”‘’()[]*_"
_ENDS = ".!?\n"


def listed(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_LISTS: dict[str, frozenset[str]] = {
    "months": listed(
        "january february march april may june july august september october november december"
    ),
    "weekdays": listed("monday tuesday wednesday thursday friday saturday sunday"),
    "pronouns": listed(
        "i me my mine myself you your yours yourself he him his himself she her hers herself it "
        "its itself we us our ours ourselves they them their theirs themselves"
    ),
    "articles": listed("a an the"),
    "prepositions": listed(
        "of in to for with on at by from about as into like through after over between out against "
        "during without before under around among upon toward towards within along across behind "
        "beyond near above below despite except inside outside"
    ),
    "conjunctions": listed("and or but nor so yet because although though while whereas unless"),
    "auxiliary verbs": listed(
        "be am is are was were been being have has had having do does did can could will would "
        "shall should may might must"
    ),
    "negations": listed("no not never none nothing nobody neither nor cannot don't doesn't didn't "
                         "isn't aren't wasn't weren't won't wouldn't can't couldn't"),
    "question words": listed("who whom whose what which when where why how"),
    "number words": listed(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
        "eighty ninety hundred thousand million billion trillion first second third fourth fifth"
    ),
    "colours": listed(
        "red orange yellow green blue purple violet pink brown black white grey gray gold silver"
    ),
}  # fmt: skip

_SCRIPTS = {
    "Greek letters": "GREEK",
    "Cyrillic letters": "CYRILLIC",
    "Arabic letters": "ARABIC",
    "Hebrew letters": "HEBREW",
    "Indian scripts": "DEVANAGARI",
    "Chinese characters": "CJK",
    "Japanese kana": "HIRAGANA|KATAKANA",
    "Korean letters": "HANGUL",
}


def _some(letters: str) -> Callable[[str], bool]:
    """Whether a bare piece consists of these characters."""
    return lambda piece: bool(piece) and all(character in letters for character in piece)


def _script(name: str) -> Callable[[str], bool]:
    wanted = tuple(name.split("|"))
    return lambda piece: any(unicodedata.name(c, "").startswith(wanted) for c in piece)


def _punctuation(piece: str) -> bool:
    return bool(piece) and all(unicodedata.category(c)[0] in "PS" for c in piece)


def _accented(piece: str) -> bool:
    return any("WITH" in unicodedata.name(c, "") and c.isalpha() and ord(c) < 0x250 for c in piece)


_BARE: dict[str, Callable[[str], bool]] = {
    "digits": lambda piece: piece.isdecimal(),
    "punctuation": _punctuation,
    "brackets": _some("()[]{}<>"),
    "quotation marks": _some("\"'“”‘’`"),
    "ends of sentences": _some(".!?"),
    "dashes": _some("-–—@"),
    "code symbols": _some("{}[]()<>=+*/\\|&^%$#@~;:_"),
    "letters with accents": _accented,
    **{phrase: _script(name) for phrase, name in _SCRIPTS.items()},
}
"""Classes of a token's own text, spaces around it taken off."""

_WORDS: dict[str, Callable[[str], bool]] = {
    "years": lambda word: bool(re.fullmatch(r"(1[0-9]|20)\d\d", word)),
    "words in capitals": lambda word: len(word) > 1 and word.isupper(),
    "single letters": lambda word: len(word) == 1 and word.isalpha(),
    **{
        phrase: functools.partial(lambda words, word: word.lower() in words, words)
        for phrase, words in _LISTS.items()
    },
}
"""Classes of the whole word that a token is a part of."""

_PLACES = (
    "line breaks",
    "spaces",
    "capitalised words",
    "word continuations",
    "first words of sentences",
    "first tokens of the text",
)
"""Classes by where a token stands."""

CLASSES: tuple[str, ...] = (*_BARE, *_WORDS, *_PLACES)
"""Every class, by the phrase that names it."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What can be seen of each of `t` tokens.

    Attributes:
      bare: its text without the spaces around it.
      words: the word that it is a part of, or "".
      stems: that word's stem.
      first, last: bool `[t]`, whether it begins and ends its word.
      classes: bool `[t, c]`, in the order of `CLASSES`.
    """

    bare: tuple[str, ...]
    words: tuple[str, ...]
    stems: tuple[str, ...]
    first: np.ndarray
    last: np.ndarray
    classes: np.ndarray

    def is_a(self, phrase: str) -> np.ndarray:
        """bool `[t]`: which tokens are of a class."""
        return self.classes[:, CLASSES.index(phrase)]

    @functools.cached_property
    def vocabulary(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The words in small letters, each once, and int `[t]`: which of them a token is of."""
        small = [word.lower() for word in self.words]
        known = {word: index for index, word in enumerate(dict.fromkeys(small))}
        return tuple(known), np.array([known[word] for word in small], np.int64)


def joined(readings: Sequence[Reading]) -> Reading:
    """One reading of several texts, one after the other."""
    bare, words, stems = (
        tuple(itertools.chain.from_iterable(getattr(one, name) for one in readings))
        for name in ("bare", "words", "stems")
    )
    first, last, classes = (
        np.concatenate([getattr(one, name) for one in readings])
        for name in ("first", "last", "classes")
    )
    return Reading(bare, words, stems, first, last, classes)


@functools.lru_cache(maxsize=4096)
def reading(pieces: tuple[str, ...]) -> Reading:
    """What can be seen of each token of a text."""
    text = "".join(pieces)
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    words = [""] * len(pieces)
    first, last, opens = (np.zeros(len(pieces), bool) for _ in range(3))
    for match in _WORD.finditer(text):
        begin, end = owner[match.start()], owner[match.end() - 1]
        opens[begin] |= _opens_sentence(text, match.start())
        if words[begin] and begin == end:
            continue
        first[begin] |= not words[begin]
        last[end] = True
        for place in range(begin, end + 1):
            words[place] = words[place] or match.group()
    bare = tuple(piece.strip() for piece in pieces)
    stems = tuple(map(stem, words))
    classes = _classes(pieces, bare, words, first, opens)
    return Reading(bare, tuple(words), stems, first, last, classes)


def _opens_sentence(text: str, place: int) -> bool:
    before = text[:place].rstrip(_OPENERS)
    return bool(before) and before[-1] in _ENDS


def _classes(
    pieces: tuple[str, ...],
    bare: tuple[str, ...],
    words: list[str],
    first: np.ndarray,
    opens: np.ndarray,
) -> np.ndarray:
    """bool `[t, c]`."""
    own = np.array([_of_piece(piece) for piece in bare], bool).reshape(len(bare), -1)
    whole = np.array([_of_word(word) for word in words], bool).reshape(len(bare), -1)
    inside = np.array([bool(word) for word in words], bool)
    places = (
        np.array(["\n" in piece for piece in pieces], bool),
        np.array([not piece for piece in bare], bool),
        first & np.array([word[:1].isupper() for word in words], bool),
        inside & ~first,
        opens,
        np.arange(len(pieces)) < 3,
    )
    return np.concatenate([own, whole, np.stack(places, axis=1)], axis=1)


@functools.lru_cache(maxsize=100_000)
def _of_piece(bare: str) -> tuple[bool, ...]:
    return tuple(belongs(bare) for belongs in _BARE.values())


@functools.lru_cache(maxsize=100_000)
def _of_word(word: str) -> tuple[bool, ...]:
    return tuple(bool(word) and belongs(word) for belongs in _WORDS.values())


@functools.lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The word in small letters without its commonest English endings; short words stay whole."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    for ending, put in _ENDINGS:
        kept = word.removesuffix(ending)
        if kept != word and len(kept) >= 3 and not (ending == "s" and kept[-1] in "su'i"):
            return _unfinished(kept + put, ending)
    return _unfinished(word, "")


def _unfinished(word: str, ending: str) -> str:
    """`run` for the `runn` of running, and `mak` for make as for making."""
    doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz"
    if ending in ("ing", "ed") and doubled:
        return word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


_EXAMPLES: dict[str, tuple[str, ...]] = {
    "digits": ("7", "42", "365", "1980"),
    "punctuation": (", ; :", "!", "( , )", "..."),
    "brackets": ("( a )", "[ b ]"),
    "quotation marks": ('" so "', "' so '"),
    "ends of sentences": ("no . yes . no .", "what ? when ?"),
    "dashes": ("this - and - that", "a – b"),
    "code symbols": ("x = { y }", "a += b ;"),
    "letters with accents": ("é", "café", "ü"),
    "Greek letters": ("αβγ", "λ"),
    "Cyrillic letters": ("мир", "да"),
    "Arabic letters": ("سلام", "و"),
    "Hebrew letters": ("שלום", "אב"),
    "Indian scripts": ("नमस्ते", "जल"),
    "Chinese characters": ("中文", "水"),
    "Japanese kana": ("ひらがな", "カナ"),
    "Korean letters": ("한국", "물"),
    "years": ("1987", "2004", "1912"),
    "words in capitals": ("NASA", "THE END"),
    "single letters": ("x", "B"),
    "line breaks": ("this\nand\nthat\n",),
    "spaces": ("this   and   that",),
    "capitalised words": ("Anna and Peter", "London", "Germany"),
    "word continuations": ("unbelievably", "misunderstandings"),
    "first words of sentences": ("it. They left. We came", "yes. Now. Then"),
    "first tokens of the text": ("it",),
}


def examples_of(phrase: str) -> tuple[str, ...]:
    """Texts with tokens of a class in them."""
    return _EXAMPLES.get(phrase) or tuple(sorted(_LISTS[phrase]))
