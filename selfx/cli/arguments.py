"""Arguments that several commands take, and how they are checked."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import tyro

from selfx.errors import SelfxError

Injected = Literal["embedding", "marker", "add", "overwrite"]
Part = Literal["lora", "full", "scale", "bias", "low_rank", "projection"]
"""As in `selfx.explainer`, which only commands that run import: `--help` does not wait for jax."""

Task = Literal["activation-patching", "input-ablation", "feature-description", "activation-reading"]

Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]


def setting(text: str) -> tuple[str, Any]:
    """`name=value` with the value as JSON if it is, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SelfxError(f"--option {text!r}", expected="name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def positive(**numbers: int) -> None:
    """Raises SelfxError for a number below 1, by its flag."""
    for name, number in numbers.items():
        if number < 1:
            raise SelfxError(f"--{name.replace('_', '-')} {number}", expected="1 or more")


def mesh_shape(text: str) -> tuple[int, int]:
    """`(data, model)` from `2x4`, or from `4`, which shares the weights alone."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise SelfxError(f"--mesh {text!r}", expected="numbers of devices, such as 1x8")
    return (1, int(parts[0])) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
