"""Trace, train and evaluate one task at a size larger than the quickstart.

    python -m experiments.whole_path --task activation-patching --data FACTS --name patching
    python -m experiments.whole_path --task input-ablation --data QUESTIONS --name ablation

Work goes to `runs/NAME` and goes on where it stopped; configuration and scores are kept in
`experiments/results/NAME`.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import selfx
from experiments.command import command
from experiments.portable import portable
from selfx.cli import setting
from selfx.evaluation.run import Evaluation, evaluate
from selfx.evaluation.table import score_table
from selfx.explainer.answer import load_explainer
from selfx.explainer.fit import fit
from selfx.explainer.training import Training
from selfx.files import write_json
from selfx.progress import progress
from selfx.tasks.trace import trace

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    task: str
    name: str
    """Of the folders."""
    data: str | None = None
    """Facts or questions; none takes those that come with selfx."""
    model: str = "smollm2-135m-instruct"
    """Target and explainer alike."""
    limit: int = 4000
    """Examples, train and test together."""
    option: tuple[str, ...] = ()
    """Task settings as name=value."""
    seed: int = 0
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    work: Path = Path("runs")
    keep: Path = RESULTS


def main(config: Config) -> None:
    """Prints the table and keeps configuration and scores."""
    lm = selfx.load(config.model)
    work = config.work / config.name
    with progress("tracing") as report:
        trace(
            config.task,
            lm,
            work / "trace",
            data=config.data,
            limit=config.limit,
            seed=config.seed,
            progress=report,
            **_options(config.option),
        )
    with progress("training") as report:
        fit(lm, [work / "trace"], work / "run", config.training, report=report)
    with progress("evaluating") as report:
        explainer = load_explainer(work / "run", lm)
        scores = evaluate(
            explainer, work / "trace", work / "scores", config.evaluation, report=report
        )
    kept = config.keep / config.name
    record = dataclasses.asdict(config) | {"work": None, "keep": None}
    write_json(kept / "config.json", portable(record, config.work, [config.data]))
    write_json(kept / "scores.json", portable(scores, config.work, [config.data]))
    shutil.copy(work / "run" / "metrics.jsonl", kept / "metrics.jsonl")
    print(score_table(scores))


def _options(settings: tuple[str, ...]) -> dict[str, Any]:
    return dict(setting(text) for text in settings)


if __name__ == "__main__":
    command(main, Config)
