"""Carrying arms out, and what is kept: settings, scores, seeds, self against cross, a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cost import Job
from experiments.paper.arms import Arm, Bench, Common
from experiments.paper.tables import shown, summary
from experiments.paper.traces import told
from experiments.portable import portable, portable_evaluation
from selfx.evaluation.across.matrix import Entry, matrix
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import write_report
from selfx.evaluation.run import REPORT
from selfx.evaluation.statistics.seeds import of_evaluations
from selfx.evaluation.table import score_table
from selfx.files import write_json


def carry_out(script: str, bench: Bench, arms: Sequence[Arm]) -> dict[str, dict[str, Any]] | None:
    """The scores of all arms by name, kept; None, after telling what it would take, in a dry run.

    Args:
      script: what the results are called.
      bench: where.
      arms: what.
    """
    if bench.common.dry_run:
        tell(bench.jobs(arms))
        return None
    kept, found = bench.common.keep / bench.common.scale / script, {}
    write_json(kept / "config.json", config_of(bench))
    for arm in sorted(arms, key=lambda arm: not arm.blind):  # others are asked beside the blind
        found[arm.name] = bench.carry_out(arm)
        print(f"{arm.name}\n{score_table(found[arm.name])}\n", flush=True)
    found = {arm.name: found[arm.name] for arm in arms}
    keep(kept, bench, arms)
    write_json(kept / "summary.json", [summary(name, one) for name, one in found.items()])
    print(shown([summary(name, one) for name, one in found.items()]), flush=True)
    return found


def tell(jobs: Sequence[tuple[Job, float]]) -> None:
    """Prints what would be done."""
    for job, seconds in jobs:
        print(f"{'done' if job.done else f'{seconds / 3600:8.2f} h':>10}  {job.name}")
    total = sum(seconds for _, seconds in jobs) / 3600
    print(f"{total:8.2f} h  in all, making the traces apart; an estimate", flush=True)


def keep(kept: Path, bench: Bench, arms: Sequence[Arm]) -> None:
    """Keeps the scores of each arm, those over seeds, self against cross, and the report."""
    common = bench.common
    files = (common.data,)
    loaded = {arm.name: load_evaluation(bench.scores(arm)) for arm in arms}
    told_by = {name: portable_evaluation(one, common.work, files) for name, one in loaded.items()}
    for name, one in told_by.items():
        write_json(kept / f"{name}.json", one["scores"])
    series: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        series.setdefault(arm.series, []).append(told_by[arm.name])
    over = {name: of_evaluations(each) for name, each in series.items() if len(each) > 1}
    write_json(kept / "over-seeds.json", over)
    own = bench.setup.questions.target.name
    plain = [arm for arm in arms if arm == Arm(arm.model, arm.seed)]
    if len({arm.model.name for arm in plain}) > 1:
        cells = [Entry(own, arm.model.name, arm.seed, bench.scores(arm)) for arm in plain]
        write_json(kept / "self-and-cross.json", told_of(matrix(cells), common))
    write_report(kept / REPORT, [*told_by.values()])


def config_of(bench: Bench) -> dict[str, Any]:
    """What decides the results, without folders of this machine."""
    common, setup = bench.common, bench.setup
    trainings = {name or "all others": dataclasses.asdict(t) for name, t in setup.trainings.items()}
    data = None if common.data is None else Path(common.data).name
    record = {
        "scale": common.scale,
        "seeds": common.seeds,
        "released": common.released,
        "data": data,
        "questions": told(setup.questions),
        "outside": [told(one) for one in setup.outside],
        "trainings": trainings,
        "evaluation": dataclasses.asdict(setup.evaluation),
    }
    return told_of(record, common)


def told_of(record: Any, common: Common) -> Any:
    """The record without folders of this machine."""
    return portable(record, common.work, [common.data])
