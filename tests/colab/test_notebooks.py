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
RUNNER = """
import runpy, sys
for path in sys.argv[1:]:
    print("notebook", path, flush=True)
    runpy.run_path(path)
"""


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


def test_there_are_four():
    assert [path.stem for path in NOTEBOOKS] == sorted(p.stem for p in FOLDER.glob("*.py"))
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_paired(notebook):
    assert cells(notebook) == script_cells(notebook.with_suffix(".py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_small_installed_first_and_timed(notebook):
    """Under 300 KB; the first cell that runs installs; slow cells say how long they take."""
    assert notebook.stat().st_size < 300_000
    found = cells(notebook)
    assert '"pip", "install"' in next(text for kind, text in found if kind == "code")
    said = " ".join(text for kind, text in found if kind == "markdown")
    assert len(re.findall(r"\b(?:seconds?|minutes?)\b", said)) >= 5


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A function: what some notebooks print, run one after the other on eight devices, as on a TPU
    host, in one process: most of their time is one import and the same programs compiled."""

    def say(*names):
        folder = tmp_path_factory.mktemp("notebooks")
        paths = []
        for name in names:
            path = folder / f"{name}.py"
            code = (text for kind, text in cells(FOLDER / f"{name}.ipynb") if kind == "code")
            path.write_text("\n\n".join(code))
            paths.append(str(path))
        environment = {
            **os.environ,
            "SELFX_MODEL": str(tiny_folder),
            "MPLBACKEND": "agg",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "True",
        }
        command = [sys.executable, "-c", RUNNER, *paths]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        said = re.split(r"(?m)^notebook .*$", done.stdout)[1:]
        return dict(zip(names, said, strict=True))

    return say


def test_interventions_run(run):
    """Edits by hand move logits, and transforms and shards of them agree; the estimate is checked
    against cells that were run; a task of one's own reads back."""
    said = run("interventions_in_ten_minutes", "your_own_edit")
    first, own = said.values()
    assert "rank correlation with 20 cells run for real:" in first
    differences = re.findall(r"differs by ([\d.e-]+)", own)
    assert len(differences) == 2
    assert all(float(difference) < 1e-4 for difference in differences)
    for text in said.values():
        assert float(re.search(r"change of a logit: ([\d.e-]+)", text)[1]) > 1e-3
    counts = re.search(r"\{'train': (\d+), 'test': (\d+)\} rows in", own)
    assert (int(counts[1]), int(counts[2])) == (24, 8)
    assert "how would the output change?" in own


def test_training_runs(run):
    """A model is traced, trained, examined and asked; and trained with its weights on a mesh."""
    said = run("a_model_explains_itself", "train_on_tpu_with_a_mesh")
    itself, mesh = said.values()
    assert "activation lift:" in itself
    assert "verdict" in itself
    assert "8 × cpu, as {'data': 4, 'model': 2}" in mesh
    assert "blocks.q.w (4, 32, 32): (4, 32, 16) a device" in mesh
    assert float(re.search(r"sharded differs by ([\d.e-]+)", mesh)[1]) < 1e-4
