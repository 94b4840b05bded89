"""Explainers that differ by the seed alone: trained, asked the same questions, kept together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.portable import portable, portable_evaluation
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import write_report
from selfx.evaluation.run import REPORT, Evaluation, evaluate
from selfx.evaluation.statistics.seeds import of_evaluations
from selfx.evaluation.table import score_table
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.progress import progress
from selfx.weights.load import LanguageModel


def learned(lm: LanguageModel, data: Path, run: Path, training: Training) -> Path:
    """The run folder of an explainer."""
    with progress(run.name) as report:
        fit(lm, [data], run, training, report=report)
    return run


def asked(
    lm: LanguageModel, runs: Mapping[str, Path], data: Path, work: Path, evaluation: Evaluation
) -> list[Path]:
    """The folders of the scores of runs, by name in `work`, each run's table printed.

    What they have in common is asked once.
    """
    for name, run in runs.items():
        with progress(f"{name}, asked") as report:
            scores = evaluate(
                load_explainer(run, lm),
                data,
                work / name,
                evaluation,
                answers=work / "answers",
                report=report,
            )
        print(f"{name}\n{score_table(scores)}\n", flush=True)
    return [work / name for name in runs]


def kept(folders: Sequence[Path], config: Any, files: Sequence[str | None] = ()) -> dict[str, Any]:
    """The scores over seeds, kept with those of each, the report and the settings.

    Args:
      folders: of the scores.
      config: the experiment's dataclass, `work` and `keep` among its fields.
      files: that it names: they are kept by their names alone.
    """
    found = [portable_evaluation(load_evaluation(each), config.work, files) for each in folders]
    for one in found:
        write_json(config.keep / f"{one['name']}.json", one["scores"])
    write_report(config.keep / REPORT, found)
    over = of_evaluations(found) if len(found) > 1 else {}
    write_json(config.keep / "over-seeds.json", over)
    record = dataclasses.asdict(config) | {"work": None, "keep": None}
    write_json(config.keep / "config.json", portable(record, config.work, files))
    return over
