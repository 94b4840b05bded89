"""The table of evidence: of a small folder by hand, and the one in the README."""

import json
from pathlib import Path

import pytest

from experiments import summary
from selfx.errors import SelfxError

ROOT = Path(__file__).parents[2]


def metric(value, half=0.1):
    return {"exact_match": {"value": value, "low": value - half, "high": value + half}}


def row(explainer, control, value):
    return {"explainer": explainer, "control": control, "metrics": metric(value)}


@pytest.fixture
def results(tmp_path):
    """Input ablation with all there can be, contrast sets with the least."""
    own, blind = [row("explainer", "none", 0.5), row("explainer", "zero", 0.2)], []
    beside = [row(name, "none", v) for name, v in [("untrained", 0.9), ("majority", 0.3)]]
    lift = {"control": "zero", "metrics": metric(0.3)}
    over = {"n": 40, "headline": "exact_match", "rows": own + beside, "lift": lift}
    said = {"metrics": {"ece": {"value": 0.04}}, "ece_by_chance": 0.03}
    cross = {"metrics": metric(0.05), "smallest": {"exact_match": 0.07}, "test": {"p": 0.0312}}
    sure = {"calibration": {"none": {"as said": said}}}
    better = {"metrics": {"ece": {"value": 0.01}}, "ece_by_chance": 0.02}
    refitted = {"calibration": {"none": {"as said": said, "platt, in folds": better}}}
    files = {
        "contrast/over-seeds.json": over | {"rows": own[:1], "lift": None},
        "paper/smollm2/input_ablation/over-seeds.json": {"SmolLM2": over, "SmolLM2-blind": blind},
        "paper/smollm2/input_ablation/self-and-cross.json": {"differences": [cross]},
        "paper/smollm2/input_ablation/SmolLM2-seed-0.json": sure,
        "paper/smollm2/input_ablation/SmolLM2-seed-1.json": {},
        "paper/smollm2/input_ablation/SmolLM2-seed-2.json": refitted,
        "paper/smollm2/input_ablation/SmolLM2-seed-1-blind.json": {"calibration": 1},
    }
    for name, found in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(found))
    return tmp_path


def test_a_line_for_each_task_that_was_run(results):
    *_, contrast, ablation = summary.main(summary.Config(results)).splitlines()
    cells = [cell.strip() for cell in ablation.strip("|").split("|")]
    assert cells == [
        "input ablation, exact match",
        "40",
        "50.0 (40.0 to 60.0)",
        "20.0 (10.0 to 30.0), zero",
        "30.0 (20.0 to 40.0)",
        "30.0 (20.0 to 40.0), majority",
        "5.0 (-5.0 to 15.0), p 0.031; 7.0 would have been seen",
        "4.0 (3.0), 4.0 → 1.0 (3.0)",
    ]
    cells = [cell.strip() for cell in contrast.strip("|").split("|")]
    assert cells[2:] == ["50.0 (40.0 to 60.0)", "", "", "", "", ""]


def test_every_row_of_one_folder(results):
    folder = "paper/smollm2/input_ablation"
    printed = summary.main(summary.Config(results, folder)).splitlines()
    assert printed[0] == "| input ablation | exact match |"
    names = [line.split("|")[1].strip() for line in printed[2:]]
    assert names == ["explainer", "zero", "untrained", "majority"]
    with pytest.raises(SelfxError, match=f"expected: contrast, {folder}"):
        summary.main(summary.Config(results, "nowhere"))


def test_the_readme_has_what_is_printed():
    printed = summary.main(summary.Config(ROOT / "experiments" / "results"))
    assert printed in (ROOT / "README.md").read_text()
    results = ROOT / "experiments" / "results"
    assert summary.main(summary.Config(results, "contrast")) in (results / "README.md").read_text()
