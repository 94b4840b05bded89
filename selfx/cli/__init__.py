"""The command `selfx`: parses, calls the library, prints. Progress and notes go to stderr.

Each command is a frozen dataclass whose docstring is its help; `run` returns what is printed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import tyro

from selfx.cli.arguments import setting
from selfx.cli.experiment import Patch, Trace
from selfx.cli.explain import Evaluate, Train
from selfx.cli.model import Doctor, Pull
from selfx.cli.show import Quickstart, Report
from selfx.errors import SelfxError

__all__ = ["COMMANDS", "main", "setting"]

COMMANDS: dict[str, Any] = {
    "pull": Pull,
    "doctor": Doctor,
    "patch": Patch,
    "trace": Trace,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "quickstart": Quickstart,
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0: it did what was asked; 1: what it examined is at fault; 2: bad input; 130: interrupted.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="selfx", description=_ABOUT, args=argv
    )
    try:
        result = command.run()
    except SelfxError as error:
        print(f"selfx: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("selfx: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    _show(result, command.json)
    return 0 if getattr(result, "ok", True) else 1


_ABOUT = (
    "Train language models to explain their own computations, and measure how far to trust them."
)


def _show(result: Any, as_json: bool) -> None:
    """Prints what a command returned: plain values, or an object that knows both its forms."""
    plain = isinstance(result, dict)
    if as_json:
        print(json.dumps(result if plain else result.to_json()))
    elif plain:
        print(_words(result))
    else:
        from rich.console import Console

        Console(soft_wrap=True).print(result)


def _words(result: dict[str, Any]) -> str:
    """The result for people: a table where there are scores, else a line for what fits in one."""
    from selfx.evaluation.table import score_table

    if "rows" in result:
        return score_table(result)
    lines = {key: _line(value) for key, value in result.items()}
    return "\n".join(f"{key}: {line}" for key, line in lines.items() if line is not None)


def _line(value: Any) -> str | None:
    """A value in words; None for one with others nested in it, which `--json` shows."""
    if not isinstance(value, dict | list | tuple):
        return str(value)
    parts = value.values() if isinstance(value, dict) else value
    if not value or any(isinstance(part, dict | list | tuple) for part in parts):
        return None
    if isinstance(value, dict):
        return ", ".join(f"{part} {key}" for key, part in value.items())
    return ", ".join(map(str, value))
