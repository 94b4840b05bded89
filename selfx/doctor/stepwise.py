"""The model against the checkpoint, step by step, and what was done wrong where they part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from selfx.doctor.compare import Gap, gap, judged, limit
from selfx.doctor.parts import Layer
from selfx.doctor.report import Check
from selfx.doctor.spec import Checkpoint, Spec, Turn
from selfx.doctor.steps import FIRST, LAST, LAYERED, Seen, Step
from selfx.doctor.suspects import suspects
from selfx.doctor.trial import Trial
from selfx.models.sites import find
from selfx.progress import Report, silent

_AXES = ("row", "position")


def steps(trial: Trial, checkpoint: Checkpoint, report: Report = silent) -> Iterator[Check]:
    """A check for every site, the worst of all layers, in the order of a forward pass."""
    walk = _Walk(trial, checkpoint)
    count = len(checkpoint.specs)
    for step in FIRST:
        walk.look(step, 0)
    for layer in range(count):
        report(layer, count, f"layer {layer}")
        for step in LAYERED:
            if step.site in trial.captures:
                walk.look(step, layer)
    for step in LAST:
        walk.look(step, count - 1)
    for step in (*FIRST, *LAYERED, *LAST):
        if step.site in walk.worst:
            yield walk.check(step)


class _Walk:
    """What was found so far: each site's worst gap, the layers that failed, the first's reason."""

    def __init__(self, trial: Trial, checkpoint: Checkpoint):
        self.trial, self.checkpoint = trial, checkpoint
        self.dtype = jnp.dtype(trial.model.embed[...].dtype)
        self.limit = limit(self.dtype)
        self.worst: dict[str, Gap] = {}
        self.failed: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}

    def look(self, step: Step, number: int) -> None:
        """Recomputes one step in one layer."""
        spec = self.checkpoint.specs[number]
        layer = Layer(self.checkpoint.tensors, number, self.dtype)
        seen = _Seen(self.trial, number)
        found = _compare(step, spec, layer, seen)
        if find(step.site).layered and found.where:
            found = Gap(found.size, f"layer {number}, {found.where}")
        if step.site not in self.worst or found.size > self.worst[step.site].size:
            self.worst[step.site] = found
        if found.size > self.limit:
            self.failed.setdefault(step.site, []).append(number)
            if step.site not in self.reasons:
                self.reasons[step.site] = self._diagnose(step, spec, layer, seen)

    def check(self, step: Step) -> Check:
        """What was found at a site."""
        failed, count = self.failed.get(step.site, []), len(self.checkpoint.specs)
        where = f" (layers {_ranges(failed)} of {count})" if find(step.site).layered else ""
        diagnosis = f"{self.reasons.get(step.site, '')}{where}"
        name, length = f"step: {step.site}", self.trial.tokens.shape[1]
        found = judged(name, step.about, self.worst[step.site], self.limit, diagnosis)
        unseen = "" if found.failed else _not_reached(step.site, self.checkpoint.specs, length)
        return dataclasses.replace(found, note=unseen) if unseen else found

    def _diagnose(self, step: Step, spec: Spec, layer: Layer, seen: Seen) -> str:
        """The mistakes under which the recomputation gives what the model has."""
        config, specs = self.trial.model.config, self.checkpoint.specs
        confirmed: dict[str, float] = {}
        for words, changed, moved in suspects(step.site, config, specs, spec, layer):
            size = _compare(step, changed, moved, seen).size
            if size <= self.limit:
                confirmed[words] = size
        if confirmed:
            return ", or ".join(sorted(confirmed, key=lambda words: confirmed[words])[:3])
        return f"no usual mistake explains it: {step.about} differ from the checkpoint's"


class _Seen(dict):
    """What was captured, of one layer, in float64 when first asked for."""

    def __init__(self, trial: Trial, layer: int):
        super().__init__(tokens=trial.tokens)
        self.trial, self.layer = trial, layer

    def __missing__(self, site: str) -> np.ndarray:
        x = self.trial.captures[site]
        self[site] = np.asarray(x[self.layer] if find(site).layered else x, np.float64)
        return self[site]


def _compare(step: Step, spec: Spec, layer: Layer, seen: Seen) -> Gap:
    return gap(seen[step.site], step.compute(spec, layer, seen), _AXES, _AXES)


def _not_reached(site: str, specs: tuple[Spec, ...], length: int) -> str:
    """What texts of this length cannot show."""
    if site == "attn_probs":
        windows = sorted({spec.window or 0 for spec in specs if (spec.window or 0) >= length})
        if windows:
            return f"texts of {length} tokens do not reach the edge of a window of {windows[0]}"
    if site == "attn_scores":
        limits = {_original(spec.turn) for spec in specs if spec.turn} - {0}
        beyond = sorted(original for original in limits if original >= length)
        if beyond:
            return f"texts of {length} tokens say nothing of those longer than {beyond[0]}"
    return ""


def _original(turn: Turn) -> int:
    """The length from which on a rotary embedding turns at other rates; 0 if there is none."""
    key = {
        "dynamic": "max_position_embeddings",
        "longrope": "original_max_position_embeddings",
    }.get(turn.kind)
    return int(turn.settings[key]) if key else 0


def _ranges(numbers: list[int]) -> str:
    """`1-3, 5` for 1, 2, 3, 5."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else f"{g[0]}" for g in groups)
