"""Commands that run experiments on a target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from selfx.cli.arguments import Model, positive, setting


@dataclasses.dataclass(frozen=True)
class Patch:
    """Run any list of residual patches; write the next token before and after.

    Each line of --pairs: {"base_ids": [..], "source_ids": [..], "layers": [..], "base_pos": 3,
    "source_pos": 5, "value": "per_layer" | "first" | "mean"}. Each line of --out, in that order:
    {"base": id, "patched": id, "margin": m}, m the patched run's distance between its two best
    logits.

    For example:
      selfx patch --model smollm2-135m-instruct --pairs pairs.jsonl --out outcomes.jsonl
    """

    model: Model
    """A packaged model, a folder, a .gguf file, or a hub id."""
    pairs: Path
    """JSONL of interventions."""
    out: Path
    """JSONL of outcomes."""
    batch_size: int = 64
    """Interventions at once."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """How many were run and how many changed."""
        from selfx.interventions.pair_files import check_pairs, read_pairs, write_results
        from selfx.interventions.pairs import run_pairs
        from selfx.progress import progress
        from selfx.weights.load import load

        positive(batch_size=self.batch_size)
        pairs = read_pairs(self.pairs)
        lm = load(self.model)
        check_pairs(pairs, lm.config, self.pairs)
        with progress("patching") as report:
            results = run_pairs(lm.model, pairs, batch_size=self.batch_size, progress=report)
        write_results(self.out, results)
        changed = int((results.base != results.patched).sum())
        return {"out": str(self.out), "n": len(pairs), "changed": changed}


@dataclasses.dataclass(frozen=True)
class Trace:
    """Make ground truth: run experiments on a target and write questions with true answers.

    The same command again goes on where it stopped.

    For example:
      selfx trace activation-patching --target smollm2-135m-instruct --out traces/patching
      selfx trace input-ablation --target smollm2-135m-instruct --out traces/hints --limit 500
      selfx trace feature-description --target smollm2-135m-instruct --out traces/features \
        --data texts.txt --option dictionary=runs/sae
      selfx trace activation-reading --target smollm2-135m-instruct --out traces/reading \
        --limit 10000 --option ask=here,next,lens
      selfx trace contrast-patching --target smollm2-135m-instruct --out traces/contrast
    """

    task: Annotated[str, tyro.conf.Positional]
    """activation-patching, input-ablation, feature-description, activation-reading, or
    contrast-patching: activation patching whose outcomes text cannot tell."""
    target: Model
    """The model to experiment on."""
    out: Path
    """The trace folder."""
    data: str | None = None
    """Facts, questions or texts, a file or a hub id; none takes those that come with selfx."""
    limit: int = 2000
    """Examples to write, train and test together."""
    seed: int = 0
    """Decides every draw."""
    option: tuple[str, ...] = ()
    """Task settings as name=value, such as format=options, hints_per_question=4 or
    directions=neurons."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What trace.json holds."""
        from selfx.progress import progress
        from selfx.tasks.trace import check_task, trace
        from selfx.weights.load import load

        positive(limit=self.limit)
        check_task(self.task)
        options = dict(setting(text) for text in self.option)
        target = load(self.target)
        with progress(f"tracing {self.task}") as report:
            return trace(
                self.task,
                target,
                self.out,
                data=self.data,
                limit=self.limit,
                seed=self.seed,
                progress=report,
                **options,
            )
