"""What a command prints for people."""

import dataclasses
import json

import pytest

from selfx import cli

RESULT = {
    "path": "runs/a",
    "counts": {"train": 3, "test": 1},
    "columns": ["id", "group"],
    "balance": {"train": {"changed": 2}},
    "none": [],
    "loss": None,
}


@pytest.fixture
def command(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Command:
        """Returns something. For example: selfx command"""

        json: bool = False

        def run(self):
            return RESULT

    monkeypatch.setitem(cli.COMMANDS, "pull", Command)


def test_a_line_for_what_fits_in_one(command, capsys):
    assert cli.main(["pull"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "path: runs/a",
        "counts: 3 train, 1 test",
        "columns: id, group",
        "loss: None",
    ]


def test_all_of_it_as_json(command, capsys):
    assert cli.main(["pull", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULT
