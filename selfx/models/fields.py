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
            raise self._wrong(key, "a whole number above zero")
        return value

    def number(self, key: str, absent: float | None = None) -> float:
        """A finite number above zero."""
        value = self._get(key, absent)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise self._wrong(key, "a finite number above zero")
        return float(value)

    def flag(self, key: str, absent: bool) -> bool:
        """True or False."""
        value = self._get(key, absent)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
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
                raise self._wrong(key, f"{allowed[-1]!r}: nothing else is implemented")

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

    def _wrong(self, key: str, expected: str) -> SelfxError:
        return SelfxError(f"{self.where} has {key} = {self.values[key]!r}", expected=expected)
