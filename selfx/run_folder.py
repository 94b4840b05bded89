"""Whether a folder may be written to: empty, or of the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfx.errors import SelfxError


def must_be_free(path: Path) -> None:
    """Raises SelfxError where a new run would mix with other files; hidden ones do not count."""
    if path.exists() and not path.is_dir():
        raise SelfxError(f"{path} is a file", expected="a folder", hint="another --out")
    if path.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise SelfxError(f"{path} holds files that no run wrote", hint="another --out")


def must_match(path: Path, old: Any, new: dict[str, Any]) -> None:
    """Raises SelfxError where the settings in the folder, `old`, are not those of now, `new`."""
    differing = [
        f"{name}: {before!r} there, {after!r} now"
        for name, before, after in _differences(old, new, "")
    ]
    if differing:
        raise SelfxError(
            f"{path} holds another run:\n    " + "\n    ".join(differing),
            hint="another --out, or --fresh to start over",
        )


def _differences(old: Any, new: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        nested = (_differences(old.get(k), new.get(k), f"{name}.{k}".lstrip(".")) for k in keys)
        return [difference for several in nested for difference in several]
    return [] if old == new else [(name, old, new)]
