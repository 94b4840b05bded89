"""What has been worked out already, kept on disk until an evaluation has ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selfx.files import write_json


class Keep(Protocol):
    """Works out a value, or finds it where it was worked out before."""

    def __call__(self, label: str, key: str, make: Callable[[], Any]) -> Any:
        """Returns the value of that key, as JSON holds it."""
        ...


def nowhere(label: str, key: str, make: Callable[[], Any]) -> Any:
    """Returns the value and keeps nothing."""
    return make()


@dataclass(frozen=True)
class Kept:
    """A folder of values, one file each, so that a kill loses no more than the one in the making.

    Attributes:
        folder: Where they are.
    """

    folder: Path

    def __call__(self, label: str, key: str, make: Callable[[], Any]) -> Any:
        """Returns the value of that key, made where it is not there yet.

        Args:
            label: what it is, for who looks into the folder; the same may have several labels.
            key: changes with all that the value depends on.
            make: returns it.
        """
        file = next(self.folder.glob(f"[!.]*-{key}.json"), self.folder / f"{label}-{key}.json")
        if not file.exists():
            write_json(file, make())
        return json.loads(file.read_text(encoding="utf-8"))

    def forget(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)
