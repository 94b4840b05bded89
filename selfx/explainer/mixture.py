"""What a run learns from: several traces, each as often as it is to be seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfx.errors import SelfxError
from selfx.explainer.origin import Origin, origin_of
from selfx.models.config import Config
from selfx.tasks.example import Example
from selfx.tasks.graded import graded, keeps_scores
from selfx.tasks.store import load_examples, load_trace
from selfx.weights.load import LanguageModel


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Examples of several traces.

    Attributes:
      folders: the traces.
      records: what each says of itself.
      examples: their train splits, one after the other.
      shares: how often an epoch sees each example of each trace.
      times: the same for each example.
      origin: the shape of the target.
    """

    folders: tuple[Path, ...]
    records: tuple[dict[str, Any], ...]
    examples: tuple[Example, ...]
    shares: tuple[float, ...]
    times: tuple[float, ...]
    origin: Origin

    def times_of(self, examples: Sequence[Example]) -> list[float]:
        """How often an epoch sees each of these."""
        often = {id(e): times for e, times in zip(self.examples, self.times, strict=True)}
        return [often[id(example)] for example in examples]


def check_target(records: Sequence[dict[str, Any]], explainer: LanguageModel) -> None:
    """Raises SelfxError where a trace is of a model called as the explainer is, with other weights.

    The explainer would be taken to explain itself, and explain a stranger.
    """
    for record in records:
        name, made = record.get("target"), str(record.get("target_hash") or "")
        own = explainer.hash.partition("+")[0]  # after it, how it was quantised
        if name == explainer.name and made and made.partition("+")[0] != own:
            raise SelfxError(
                f"a trace of {name} with hash {made[:12]}",
                expected=f"{own[:12]}, as {explainer.name} has here",
                hint="trace again with the weights that are here now",
            )


def read_mixture(
    folders: Sequence[Path], times: Sequence[float], explainer: Config, soften: float = 0.0
) -> Mixture:
    """The train splits of some traces.

    Args:
      folders: the traces.
      times: how often an epoch sees each example of each trace; none given is once.
      explainer: the model that is to learn.
      soften: the temperature of answers' shares, for traces that keep the target's scores; 0 for
        none.

    Raises:
      SelfxError: no examples, as many times as traces, targets that differ, shares asked of traces
        that keep no scores.
    """
    if times and len(times) != len(folders):
        raise SelfxError(f"{len(times)} --times for {len(folders)} traces", expected="one for each")
    if not all(0 < often < math.inf for often in times):
        raise SelfxError(f"--times {' '.join(map(str, times))}", expected="positive numbers")
    parts = [load_examples(folder, "train") for folder in folders]
    if soften:
        parts = _softened(parts, folders, soften)
    examples = tuple(example for part in parts for example in part)
    if not examples:
        raise SelfxError(
            f"no training examples in {', '.join(map(str, folders)) or 'no folder'}",
            expected="trace folders with train-*.parquet",
            hint="selfx trace TASK --out DIR",
        )
    records = tuple(load_trace(folder) for folder in folders)
    hashes = {record["target_hash"] for record in records if record.get("target_hash")}
    if len(hashes) > 1:
        raise SelfxError(
            f"traces of {len(hashes)} targets: {', '.join(sorted(h[:12] for h in hashes))}",
            expected="traces of one target, so that one explainer explains one model",
            hint="train an explainer for each",
        )
    shares = tuple(times) or (1.0,) * len(parts)
    often = tuple(share for part, share in zip(parts, shares, strict=True) for _ in part)
    origin = origin_of(records, examples, explainer)
    return Mixture(tuple(folders), records, examples, shares, often, origin)


def _softened(
    parts: Sequence[list[Example]], folders: Sequence[Path], temperature: float
) -> list[list[Example]]:
    """The examples with each answer's share, in the traces that keep the target's scores."""
    if not any(part and keeps_scores(part) for part in parts):
        raise SelfxError(
            f"soften {temperature} for traces without the target's scores",
            expected="input-ablation, with answering=calibrated or letters",
            hint="--soften 0",
        )
    return [
        graded(part, load_trace(folder), temperature) if keeps_scores(part) else part
        for part, folder in zip(parts, folders, strict=True)
    ]
