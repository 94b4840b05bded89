"""Commands that show what was found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from selfx.errors import SelfxError


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about one evaluation or several.

    For example:
      selfx report scores/patching scores/hints --out report.html
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Evaluation folders."""
    out: Path = Path("report.html")
    """The page."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """Where the page is."""
        from selfx.evaluation.folder import load_evaluation
        from selfx.evaluation.report.page import write_report

        if not self.folders:
            raise SelfxError("no evaluation folder", hint="selfx report DIR...")
        write_report(self.out, [load_evaluation(folder) for folder in self.folders])
        return {"report": str(self.out)}


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Everything above, small, on a real model, from nothing, in minutes on two cores.

    For example:
      selfx quickstart
      selfx quickstart --out runs/first
    """

    out: Path = Path("selfx-quickstart")
    """Where all of it goes; the same command again goes on where it stopped."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """The scores, the report's path, the time."""
        from selfx.quickstart import quickstart

        return quickstart(self.out)
