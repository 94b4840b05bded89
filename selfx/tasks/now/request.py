"""What somebody wants to ask: the same keys, whether they come as flags or as lines of a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.tasks.questions import LETTERS
from selfx.tasks.rows import read_rows

ASKABLE = ("here", "next", "lens", "before")
"""Kinds of `selfx.tasks.reading_questions.ASKS` that show no excerpt of another text."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be asked; what is not given is empty.

    Attributes:
      text: what the target reads.
      at: a place in it, as `selfx.tasks.now.places.find_place` takes it.
      source_text, source_at: the same for what is patched in.
      layer: layers, each a question by itself.
      layers: layers that one question is about together.
      ask: kinds of questions about a vector, some of `ASKABLE`.
      question, choices, hint: a question with four choices, and the letter hinted at.
      feature: `DICTIONARY:INDEX`.
      vector: a `.npy` file, or `FILE.safetensors[:name]`.
      example: `TRACE[:id]`.
      task: the kind of question meant, where the rest leaves it open.
      where: the file and line that it is from.
    """

    text: str = ""
    at: str = ""
    source_text: str = ""
    source_at: str = ""
    layer: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    ask: tuple[str, ...] = ()
    question: str = ""
    choices: tuple[str, ...] = ()
    hint: str = ""
    feature: str = ""
    vector: str = ""
    example: str = ""
    task: str = ""
    where: str = ""

    @property
    def given(self) -> frozenset[str]:
        """The keys that say what is asked; `layer` stands for `layers` too."""
        names = {name for name in KEYS if name != "task" and getattr(self, name)}
        return frozenset({"layer" if name == "layers" else name for name in names})

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The layers of each question."""
        return tuple((layer,) for layer in self.layer) + ((self.layers,) if self.layers else ())


KEYS = tuple(field.name for field in dataclasses.fields(Request) if field.name != "where")


def request_of(values: Mapping[str, Any], where: str = "") -> Request:
    """The request that some values make.

    Args:
      values: by the names in `KEYS`; None is not given.
      where: the file and line, for messages.

    Raises:
      SelfxError: a name that there is not, a value of another kind, or nothing to ask.
    """
    try:
        unknown = sorted(values.keys() - set(KEYS))
        if unknown:
            raise SelfxError(f"the key {unknown[0]!r}", expected=f"some of {', '.join(KEYS)}")
        read = {name: _READ[name](name, v) for name, v in values.items() if v is not None}
        request = Request(**read, where=where)
        if not request.given:
            raise SelfxError(
                "nothing to ask",
                expected="a text and a place, a question, a feature, a vector or an example",
            )
        return request
    except SelfxError as error:
        raise placed(error, where) from None


def read_requests(path: str | Path) -> list[Request]:
    """The requests in a file of JSON lines.

    Raises:
      SelfxError: it cannot be read, is empty, or a line is no request; it names the line.
    """
    return [request_of(row, where) for where, row in read_rows(path)]


def placed(error: SelfxError, where: str) -> SelfxError:
    """The error with the place that it is about in front of it."""
    if not where or error.got.startswith(where):
        return error
    return SelfxError(f"{where}: {error.got}", expected=error.expected, hint=error.hint)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _wrong(name, value, "a text that is not empty")


def _at(name: str, value: Any) -> str:
    return str(value) if _is_int(value) else _text(name, value)


def _several(name: str, value: Any) -> tuple[int, ...]:
    """Layers, each for itself."""
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    return _layers(name, value, found)


def _together(name: str, value: Any) -> tuple[int, ...]:
    """Layers such as `8-15`, `3,5,7` or `[3, 5, 7]`."""
    if not isinstance(value, str):
        return _several(name, value)
    parts = [_RANGE.fullmatch(part.strip()) for part in value.split(",")]
    spans = [(int(p[1]), int(p[2] or p[1])) for p in parts if p is not None]
    found = [layer for low, high in spans for layer in range(low, high + 1)]
    good = len(spans) == len(parts) and all(low <= high for low, high in spans)
    return _layers(name, value, tuple(found) if good else ())


def _layers(name: str, value: Any, found: tuple[Any, ...]) -> tuple[int, ...]:
    if found and all(map(_is_int, found)) and min(found) >= 0 and len(set(found)) == len(found):
        return found
    raise _wrong(name, value, "numbers of layers from 0, each once, such as 12 or 8-15")


def _asks(name: str, value: Any) -> tuple[str, ...]:
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    if found and set(found) <= set(ASKABLE) and len(set(found)) == len(found):
        return found
    raise _wrong(name, value, f"some of {', '.join(ASKABLE)}, each once")


def _choices(name: str, value: Any) -> tuple[str, ...]:
    found = tuple(value) if isinstance(value, list | tuple) else ()
    if len(found) == len(LETTERS) and all(isinstance(x, str) and x.strip() for x in found):
        return tuple(x.strip() for x in found)
    raise _wrong(name, value, "four texts, none empty")


def _hint(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value) == 1 and value in LETTERS:
        return value
    raise _wrong(name, value, f"a letter of {LETTERS}")


def _wrong(name: str, value: Any, expected: str) -> SelfxError:
    return SelfxError(f"{name.replace('_', '-')} {repr(value)[:60]}", expected=expected)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_READ: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(KEYS, _text),
    **dict.fromkeys(("at", "source_at"), _at),
    "layer": _several,
    "layers": _together,
    "ask": _asks,
    "choices": _choices,
    "hint": _hint,
}
