"""Notebooks run from first cell to last on the tiny model, and say what their paired files say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(notebook):
    """`[(kind, text)]` of a notebook."""
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(notebook.read_text())["cells"]
    ]


def script_cells(script):
    """The same of a script whose cells begin with `# %%`."""
    found = []
    for part in re.split(r"(?m)^# %%", script.read_text())[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            body = re.sub(r"(?m)^# ?", "", body)
        found.append(("markdown" if "[markdown]" in head else "code", body.strip()))
    return found


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_paired(notebook):
    assert cells(notebook) == script_cells(notebook.with_suffix(".py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(notebook, tiny_folder, tmp_path):
    """On eight devices, as on a TPU host."""
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(text for kind, text in cells(notebook) if kind == "code"))
    environment = {**os.environ, "SELFX_MODEL": str(tiny_folder)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    differences = re.findall(r"differs by ([\d.e-]+)", done.stdout)
    assert len(differences) == 2
    assert all(float(difference) < 1e-4 for difference in differences)
    assert float(re.search(r"change of a logit: ([\d.e-]+)", done.stdout)[1]) > 1e-3
