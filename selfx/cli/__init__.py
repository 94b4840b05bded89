"""The command `selfx`: parses, calls the library, prints. Progress and notes go to stderr.

Each command is a frozen dataclass whose docstring is its help; `run` returns what is printed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Annotated, Any, Union

import tyro

from selfx.cli.adapters import ExportPeft
from selfx.cli.arguments import setting
from selfx.cli.ask import Explain
from selfx.cli.ending import ending
from selfx.cli.experiment import Patch, Trace
from selfx.cli.explain import Evaluate, Train
from selfx.cli.features import ExportNeuronpedia, SaeInspect, SaeTrain
from selfx.cli.judging import Judge
from selfx.cli.model import Doctor, Pull
from selfx.cli.projecting import FitProjection
from selfx.cli.show import Quickstart, Report

__all__ = ["COMMANDS", "GROUPS", "main", "setting"]

COMMANDS: dict[str, Any] = {
    "pull": Pull,
    "doctor": Doctor,
    "patch": Patch,
    "trace": Trace,
    "fit-projection": FitProjection,
    "train": Train,
    "evaluate": Evaluate,
    "judge": Judge,
    "explain": Explain,
    "report": Report,
    "quickstart": Quickstart,
}

GROUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "sae": (
        "Sparse dictionaries of activations: train them, look into them.",
        {"train": SaeTrain, "inspect": SaeInspect},
    ),
    "export": (
        "Write what was found in the form that other tools take.",
        {"neuronpedia": ExportNeuronpedia, "peft": ExportPeft},
    ),
}
"""`{name: (what it is about, {command: its class})}`."""


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0: it did what was asked; 1: what it examined is at fault; 2: bad input; 130: interrupted; 143:
    asked to stop by SIGTERM.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    groups = {name: _group(*group) for name, group in GROUPS.items()}

    def work() -> int:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS | groups, prog="selfx", description=_ABOUT, args=argv
        )
        result = command.run()
        _show(result, command.json)
        return 0 if getattr(result, "ok", True) else 1

    return ending("selfx", work)


_ABOUT = (
    "Train language models to explain their own computations, and measure how far to trust them."
)


def _group(about: str, commands: dict[str, Any]) -> Callable[[Any], Any]:
    """What parses one of several commands under a common name, and gives it back."""

    def choose(command: Any) -> Any:
        return command

    union: Any = Union  # of parts known at run time alone; one part by itself would be no choice
    parts = [
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=command)]
        for name, command in commands.items()
    ]
    choice = union[(*parts, Annotated[None, tyro.conf.Suppress])]
    choose.__annotations__ = {"command": Annotated[choice, *_PLAIN_NAMES]}
    choose.__doc__ = about
    return choose


_PLAIN_NAMES = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)


def _show(result: Any, as_json: bool) -> None:
    """Prints what a command returned: plain values, or an object that knows both its forms."""
    plain = isinstance(result, dict)
    if as_json:
        print(json.dumps(_finite(result if plain else result.to_json()), allow_nan=False))
    elif plain:
        print(_words(result))
    else:
        from rich.console import Console

        Console(soft_wrap=True).print(result)


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
