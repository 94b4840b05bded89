"""The table of evidence, printed from what is kept in `experiments/results`.

    python -m experiments.summary
    python -m experiments.summary --folder contrast

Of each task one line: what explainers of SmolLM2 by itself score over seeds; the best of their own
rows without the vector, and the lift over that; the best of the baselines that learned from the
same examples; self minus the sibling, asked the same questions; and how far each seed's confidence
in its answers is off, as it is and after Platt's line (fitted in folds, where that was done), with
what would be so by chance if it were right. Of one folder, every row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.command import command
from experiments.whole_path import RESULTS
from selfx.errors import SelfxError

PAPER = "paper/smollm2"
LEARNED = ("majority", "nearest", "probe", "few-shot")
"""How the names of baselines begin that are given the training examples."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A line of the table.

    Attributes:
      label: for people.
      folder: within the results.
      series: of explainers that differ by the seed alone; "" where the folder has but one.
      seeds: the files of their scores.
    """

    label: str
    folder: str
    series: str = ""
    seeds: str = "seed-*.json"


TASKS = (
    Task("activation patching, contrast sets", "contrast"),
    Task("… as published", f"{PAPER}/activation_patching", "SmolLM2", "SmolLM2-seed-?.json"),
    Task("input ablation, from the target's states", "states"),
    Task("input ablation", f"{PAPER}/input_ablation", "SmolLM2", "SmolLM2-seed-?.json"),
    Task("feature description", f"{PAPER}/feature_descriptions", "SmolLM2", "SmolLM2-seed-?.json"),
)
COLUMNS = (
    "percent",
    "questions",
    "explainer",
    "without the vector",
    "lift",
    "best baseline",
    "self − sibling",
    "ECE → after Platt's line (by chance)",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the results are."""

    results: Path = RESULTS
    folder: str = ""
    """Of one task, for every row and score of it."""


def main(config: Config) -> str:
    """Prints the table and returns it."""
    done = [task for task in TASKS if there(task, config.results)]
    chosen = [task for task in done if task.folder == config.folder]
    if config.folder and not chosen:
        known = ", ".join(task.folder for task in done)
        where = f"no task {config.folder!r} in {config.results}"
        raise SelfxError(where, expected=known or "results")
    if chosen:
        first, *others = every(chosen[0], config.results)
    else:
        first, others = COLUMNS, [line(task, config.results) for task in done]
    lines = [first, ("---",) * len(first), *others]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    print(text, flush=True)
    return text


def there(task: Task, results: Path) -> bool:
    """Whether the task was run, with several seeds."""
    path = results / task.folder / "over-seeds.json"
    return path.exists() and (not task.series or task.series in read(path))


def over_seeds(task: Task, results: Path) -> dict[str, Any]:
    """The scores of a task over seeds."""
    found = read(results / task.folder / "over-seeds.json")
    chosen: dict[str, Any] = found[task.series] if task.series else found
    return chosen


def every(task: Task, results: Path) -> list[tuple[str, ...]]:
    """The names of all scores of a task, then each row with them."""
    rows = over_seeds(task, results)["rows"]
    names = [*rows[0]["metrics"]]
    own = rows[0]["explainer"]
    found = [(task.label, *(name.replace("_", " ") for name in names))]
    for row in rows:
        label = row["control"] if row["explainer"] == own else row["explainer"]
        scores = (interval(row["metrics"][name]) for name in names)
        found.append((own if label == "none" else label, *scores))
    return found


def line(task: Task, results: Path) -> tuple[str, ...]:
    """The cells of a task."""
    folder, over = results / task.folder, over_seeds(task, results)
    headline, rows = over["headline"], over["rows"]
    own = next(row for row in rows if row["control"] == "none")
    named = f"{task.label}, {headline.replace('_', ' ')}"
    without, gained = "", ""
    if lift := over["lift"]:
        best = next(r for r in rows if is_of(r, own) and r["control"] == lift["control"])
        without = f"{interval(best['metrics'][headline])}, {lift['control']}"
        gained = interval(lift["metrics"][headline])
    beside = best_baseline(rows, headline)
    cross = folder / "self-and-cross.json"
    surely = (calibration(read(each)) for each in sorted(folder.glob(task.seeds)))
    return (
        named,
        str(over["n"]),
        interval(own["metrics"][headline]),
        without,
        gained,
        beside,
        difference(read(cross), headline) if cross.exists() else "",
        ", ".join(filter(None, surely)),
    )


def is_of(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a row is of the same explainer."""
    return bool(row["explainer"] == own["explainer"])


def best_baseline(rows: list[dict[str, Any]], headline: str) -> str:
    """The best of the baselines that learned, by name."""
    learned = [row for row in rows if row["explainer"].startswith(LEARNED)]
    if not learned:
        return ""
    best = max(learned, key=lambda row: row["metrics"][headline]["value"])
    return f"{interval(best['metrics'][headline])}, {best['explainer']}"


def difference(found: dict[str, Any], headline: str) -> str:
    """Self minus the other, and what could have been seen."""
    (one,) = found["differences"]
    least = one["smallest"][headline]
    return f"{interval(one['metrics'][headline])}, p {one['test']['p']:.2g}" + (
        f"; {100 * least:.1f} would have been seen" if least is not None else ""
    )


def calibration(scores: dict[str, Any]) -> str:
    """The calibration error of what an explainer says of its own answers, percent."""
    measured = (scores.get("calibration") or {}).get("none", {})
    found = [measured[name] for name in ("as said", "platt, in folds") if name in measured]
    if not found:
        return ""
    errors = " → ".join(f"{100 * each['metrics']['ece']['value']:.1f}" for each in found)
    return f"{errors} ({100 * found[0]['ece_by_chance']:.1f})"


def interval(score: Mapping[str, Any]) -> str:
    """A score with its interval, percent."""
    return f"{100 * score['value']:.1f} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def read(path: Path) -> Any:
    """What a file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    command(main, Config)
