"""Fields that a checkpoint declares, read with their kind checked; what is not known raises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from selfx.errors import SelfxError


@dataclasses.dataclass(frozen=True)
class Fields:
    """Declared fields, read with their kind checked.

    Attributes:
      values: `{key: value}`.
      where: what to call their source in a message.
    """

    values: Mapping[str, Any]
    where: str

    def size(self, key: str, absent: int | None = None) -> int:
        """A whole number above zero."""
        value = self._get(key, absent)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.wrong(key, "a whole number above zero")
        return value

    def number(self, key: str, absent: float | None = None) -> float:
        """A finite number above zero."""
        value = self._get(key, absent)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise self.wrong(key, "a finite number above zero")
        return float(value)

    def optional_size(self, key: str, absent: int | None = None) -> int | None:
        """A whole number above zero; None if null, or if not said and `absent` is None."""
        value = self.values.get(key, absent)
        return None if value is None else self.size(key, absent)

    def optional_number(self, key: str, absent: float | None = None) -> float | None:
        """A finite number above zero; None if null, or if not said and `absent` is None."""
        value = self.values.get(key, absent)
        return None if value is None else self.number(key, absent)

    def word(self, key: str, known: Mapping[str, Any], absent: str | None = None) -> Any:
        """What a name stands for among those known."""
        value = self._get(key, absent)
        if not isinstance(value, str) or value not in known:
            raise self.wrong(key, f"one of {', '.join(known)}")
        return known[value]

    def items(self, key: str, length: int) -> list[Any] | None:
        """The first `length` entries of a list, or None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < length:
            raise self.wrong(key, f"a list with an entry for each of {length} layers")
        return value[:length]

    def flag(self, key: str, absent: bool) -> bool:
        """True or False."""
        value = self._get(key, absent)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Nothing, if every key is known.

        Raises:
          SelfxError: the others, named.
        """
        unknown = sorted(self.values.keys() - known)
        if unknown:
            raise SelfxError(
                f"{self.where} has fields that are not honoured: {', '.join(unknown)}",
                expected="fields whose meaning is known, so that none is silently dropped",
                hint="remove them if they do not change what the model computes",
            )

    def refuse_values(self, neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Nothing, if each of these keys is absent or holds a value that changes nothing.

        Raises:
          SelfxError: the first that does not.
        """
        for key, allowed in neutral.items():
            if key in self.values and self.values[key] not in allowed:
                raise self.wrong(key, f"{allowed[-1]!r}: nothing else is implemented")

    def _get(self, key: str, absent: Any) -> Any:
        value = self.values.get(key)
        value = absent if value is None else value
        if value is None:
            raise SelfxError(
                f"{self.where} lacks {key}",
                expected=f"{key}, which the model cannot be built without",
                hint=f"add {key}; a default might be wrong for this model",
            )
        return value

    def wrong(self, key: str, expected: str) -> SelfxError:
        """The error that `key` holds something else than expected."""
        return SelfxError(f"{self.where} has {key} = {self.values.get(key)!r}", expected=expected)
