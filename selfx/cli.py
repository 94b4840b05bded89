"""The command `selfx`: parses, calls the library, prints. Progress and notes go to stderr.

Each command is a frozen dataclass whose docstring is its help; `run` returns what `--json` prints.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from selfx.errors import SelfxError

Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]


@dataclasses.dataclass(frozen=True)
class Pull:
    """Bring a model into the cache and check its hash.

    For example:
      selfx pull smollm2-135m-instruct
      selfx pull meta-llama/Llama-3.2-1B
    """

    model: Annotated[str, tyro.conf.Positional]
    """A packaged model, a hub id, or a folder."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """Where the model is."""
        from selfx.weights.digest import weights_hash
        from selfx.weights.fetch import pull

        path = pull(self.model)
        return {"model": self.model, "path": str(path), "hash": weights_hash(path)}


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

        _positive(batch_size=self.batch_size)
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
    """

    task: Annotated[str, tyro.conf.Positional]
    """activation-patching or input-ablation."""
    target: Model
    """The model to experiment on."""
    out: Path
    """The trace folder."""
    data: str | None = None
    """Facts or questions: a file or a hub id; none takes those that come with selfx."""
    limit: int = 2000
    """Examples to write, train and test together."""
    seed: int = 0
    """Decides every draw."""
    option: tuple[str, ...] = ()
    """Task settings as name=value, such as format=options or hints_per_question=4."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What trace.json holds."""
        from selfx.progress import progress
        from selfx.tasks.trace import check_task, trace
        from selfx.weights.load import load

        _positive(limit=self.limit)
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


@dataclasses.dataclass(frozen=True)
class Train:
    """Teach an explainer to answer a trace's questions; resumes where it stopped.

    For example:
      selfx train --data traces/patching --explainer smollm2-135m-instruct --out runs/patching
      selfx train --data traces/a traces/b --explainer smollm2-135m-instruct --out runs/both
    """

    data: tuple[Path, ...]
    """Trace folders."""
    explainer: Model
    """The model to adapt."""
    out: Path
    """The run folder."""
    epochs: float = 3.0
    """Passes over the data."""
    batch_size: int = 16
    """Examples a step."""
    learning_rate: float = 5e-4
    """AdamW's rate."""
    schedule: Literal["constant", "linear"] = "constant"
    """How the rate goes on."""
    warmup: int = 0
    """Steps of linear rise."""
    rank: int = 16
    """Of the adapters."""
    alpha: float = 16.0
    """Adapters are scaled by alpha / rank."""
    style: Literal["chat", "plain"] = "chat"
    """Questions in the chat template, or as plain text."""
    scaling: Literal["matched", "raw"] = "matched"
    """Vectors at the length of embeddings, or as they are (the paper)."""
    strength: float = 5.0
    """How many embedding lengths, where matched."""
    remat: bool = False
    """Less memory, more time."""
    seed: int = 0
    """Of the adapters' start and the order of the data."""
    save_every: int = 50
    """Steps between checkpoints."""
    fresh: bool = False
    """Start over, forgetting what --out holds of an earlier run."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What was done."""
        from selfx.explainer.fit import fit
        from selfx.explainer.run import Training
        from selfx.explainer.step import Optimization
        from selfx.progress import progress
        from selfx.weights.load import load

        training = Training(
            **{name: getattr(self, name) for name in _SHARED},
            optimization=Optimization(self.learning_rate, self.schedule, self.warmup),
        )
        training.check()
        _positive(save_every=self.save_every)
        with progress("training") as report:
            fitted = fit(
                load(self.explainer),
                self.data,
                self.out,
                training,
                fresh=self.fresh,
                save_every=self.save_every,
                report=report,
            )
        return {"run": str(fitted.path), "steps": fitted.steps, "loss": fitted.loss}


_SHARED = (
    "epochs",
    "batch_size",
    "rank",
    "alpha",
    "style",
    "scaling",
    "strength",
    "remat",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score an explainer on a trace's held-out questions, with controls, baselines and intervals.

    For example:
      selfx evaluate --data traces/patching --explainer runs/patching --out scores/patching
      selfx evaluate --data traces/patching --explainer smollm2-135m-instruct --out scores/untrained
    """

    data: Path
    """A trace folder."""
    explainer: Annotated[str, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run folder, or a model as it is."""
    out: Path
    """The evaluation folder."""
    controls: tuple[str, ...] | None = None
    """What the vector is replaced by: zero, shuffled, rotated; none given runs all."""
    baselines: tuple[str, ...] | None = None
    """untrained, majority, majority-per-cell, majority-verdict-per-cell; none given runs all."""
    limit: int = 0
    """Ask this many test questions; 0 asks all."""
    max_new_tokens: int = 40
    """Where an answer is cut."""
    batch_size: int = 32
    """Questions at once."""
    seed: int = 0
    """Of the controls and the bootstrap."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """What scores.json holds."""
        from selfx.evaluation.run import Evaluation, evaluate
        from selfx.progress import progress

        chosen = {"controls": self.controls, "baselines": self.baselines}
        settings = Evaluation(
            limit=self.limit,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            seed=self.seed,
            **{name: names for name, names in chosen.items() if names is not None},
        )
        settings.check()
        explainer = _explainer(self.explainer)
        with progress("evaluating") as report:
            return evaluate(explainer, self.data, self.out, settings, report=report)


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about one evaluation or several.

    For example:
      selfx report scores/patching scores/hints --out report.html
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Evaluation folders."""
    out: Path = Path("report.html")
    """The page."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """Where the page is."""
        from selfx.evaluation.report import load_evaluation, write_report

        if not self.folders:
            raise SelfxError("no evaluation folder", hint="selfx report DIR...")
        write_report(self.out, [load_evaluation(folder) for folder in self.folders])
        return {"report": str(self.out)}


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Everything above, small, on a real model, from nothing, in minutes on two cores.

    For example:
      selfx quickstart
      selfx quickstart --out runs/first
    """

    out: Path = Path("selfx-quickstart")
    """Where all of it goes; the same command again goes on where it stopped."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any]:
        """The scores, the report's path, the time."""
        from selfx.quickstart import quickstart

        return quickstart(self.out)


COMMANDS: dict[str, Any] = {
    "pull": Pull,
    "patch": Patch,
    "trace": Trace,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "quickstart": Quickstart,
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command: 0 if it did what was asked, 2 for bad input, 130 if interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="selfx", description=_ABOUT, args=argv
    )
    try:
        result = command.run()
    except SelfxError as error:
        print(f"selfx: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("selfx: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    print(json.dumps(result) if command.json else _words(result))
    return 0


_ABOUT = (
    "Train language models to explain their own computations, and measure how far to trust them."
)


def _words(result: dict[str, Any]) -> str:
    """The result for people: a table where there are scores, else a line for what fits in one."""
    from selfx.evaluation.table import score_table

    if "rows" in result:
        return score_table(result)
    lines = {key: _line(value) for key, value in result.items()}
    return "\n".join(f"{key}: {line}" for key, line in lines.items() if line is not None)


def _line(value: Any) -> str | None:
    """A value in words; None for one with others nested in it, which `--json` shows."""
    if not isinstance(value, dict | list | tuple):
        return str(value)
    parts = value.values() if isinstance(value, dict) else value
    if not value or any(isinstance(part, dict | list | tuple) for part in parts):
        return None
    if isinstance(value, dict):
        return ", ".join(f"{part} {key}" for key, part in value.items())
    return ", ".join(map(str, value))


def _explainer(source: str) -> Any:
    """The explainer of a run folder, or a model as it is."""
    from selfx.explainer.answer import load_explainer, untrained
    from selfx.explainer.run import Run, Training
    from selfx.weights.load import load

    if Run(Path(source)).exists():
        return load_explainer(source)
    return untrained(load(source), Training())


def setting(text: str) -> tuple[str, Any]:
    """`name=value` with the value as JSON if it is, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SelfxError(f"--option {text!r}", expected="name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise SelfxError(f"--{name.replace('_', '-')} {number}", expected="1 or more")


if __name__ == "__main__":
    sys.exit(main())
