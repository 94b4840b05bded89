"""The command line of a script."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import tyro

from selfx.cli.ending import ending


def command(main: Callable[[Any], object], settings: Any) -> NoReturn:
    """Runs a script on what is asked for, and ends as `selfx` does: never in a stack trace.

    Args:
      main: of the script.
      settings: its dataclass; or, by name, what each of its configurations is about, and is.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    several = isinstance(settings, Mapping)
    parse = tyro.extras.overridable_config_cli if several else tyro.cli

    def work() -> int:
        main(parse(settings))
        return 0

    sys.exit(ending(Path(sys.argv[0]).stem, work))
