"""What the command says of itself, and what it costs to ask."""

import json
import subprocess
import sys

import pytest

from selfx.cli import COMMANDS

HEAVY = ("jax", "flax", "transformers", "datasets", "torch", "orbax", "pyarrow", "optax")


def test_the_whole_command_lists_every_other(cli):
    shown = cli("--help")
    assert shown.code == 0
    for command in COMMANDS:
        assert command in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(cli, command):
    shown = cli(command, "--help")
    assert shown.code == 0
    assert f"selfx {command}" in shown.out.split("options", 1)[0]
    assert "--json" in shown.out


def test_help_imports_nothing_heavy():
    script = (
        "import sys, selfx.cli\n"
        "try:\n    selfx.cli.main(['--help'])\n"
        "except SystemExit as done:\n    assert done.code == 0, done.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_the_installed_command_and_the_module_are_one():
    done = subprocess.run(
        [sys.executable, "-m", "selfx", "report", "nowhere", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("selfx: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("train",),
        ("patch", "--model", "x", "--pairs", "y", "--out", "z", "--bogus", "1"),
        ("train", "--data", "x", "--explainer", "y", "--out", "z", "--style", "sonnet"),
        ("train", "--data", "x", "--explainer", "y", "--out", "z", "--epochs", "many"),
    ],
)
def test_wrong_flags(cli, arguments):
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err


def test_every_default_is_json():
    """The settings travel in records."""
    import dataclasses

    for command in COMMANDS.values():
        for field in dataclasses.fields(command):
            if field.default is not dataclasses.MISSING and field.name not in ("out",):
                json.dumps(field.default)
