"""What must not change a result: an edit that changes nothing, company, padding, a cache."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.doctor.compare import Gap, gap, judged, limit, worst
from selfx.doctor.report import Check, skipped
from selfx.doctor.trial import AFTER_CACHE, Trial
from selfx.interventions.build import patch
from selfx.models.sites import find
from selfx.models.tap import Address


@struct.dataclass
class PutBack:
    """The edit that writes what a capture `[l, b, t, ...]` held, at every layer and position."""

    values: jax.Array

    def __call__(self, x: jax.Array, at: Address) -> jax.Array:
        """The recorded `x`."""
        return self.values[at.layer]


def invariances(trial: Trial) -> Iterator[Check]:
    """The checks of this file, in turn."""
    yield identity_edits(trial)
    yield single(trial)
    yield pads(trial)
    yield cache(trial)


def identity_edits(trial: Trial) -> Check:
    """Every site patched with its own capture, wholly and by `selfx.patch`: the same bits."""
    about = "every site patched with its own capture gives the same logits, to the bit"
    layer = trial.model.config.n_layers // 2
    edits = {}
    for site in trial.sites:
        seen, layered = trial.plain.captures[site], find(site).layered
        own = patch(
            site,
            seen[layer, :, -1] if layered else seen[:, -1],
            positions=seen.shape[2 if layered else 1] - 1,
            layers=layer if layered else None,
        )
        edits[site] = (PutBack(seen if layered else seen[None]), *own[site])
    out = trial.run(trial.tokens, edits=edits)
    got, want = np.asarray(out.logits), np.asarray(trial.plain.logits)
    found = gap(got, want, ("row", "position"), ("row", "position"))
    if np.array_equal(got, want, equal_nan=True):
        found = Gap(0.0)
    return judged("identity edits", about, found, 0.0, "a patch of nothing changes the run")


def single(trial: Trial) -> Check:
    """Each text alone against the texts in one batch."""
    about = "a text gives the same residuals and logits alone and in a batch"
    found = []
    for row in range(len(trial.tokens)):
        alone = trial.run(trial.tokens[row : row + 1], capture=("resid_post",))
        want = trial.captures["resid_post"][:, row], np.asarray(trial.plain.logits[row])
        got = np.asarray(alone.captures["resid_post"][:, 0]), np.asarray(alone.logits[0])
        found.append(_two(got, want, f"row {row}"))
    diagnosis = "what stands in other rows of a batch changes a row"
    return judged("batch = single", about, worst(found), _limit(trial), diagnosis)


def pads(trial: Trial) -> Check:
    """Each text padded in five ways against the text without padding."""
    about = "0, 1, 6 or 7 pads before, after or inside a text move and change nothing"
    found = []
    for row, mask in enumerate(trial.masks):
        text = row % len(trial.tokens)
        want = trial.captures["resid_post"][:, text], np.asarray(trial.plain.logits[text])
        got = (
            np.asarray(trial.padded.captures["resid_post"][:, row])[:, mask],
            np.asarray(trial.padded.logits[row])[mask],
        )
        found.append(_two(got, want, _padding(mask)))
    diagnosis = "padding leaks: a token attends to pads, or pads move its position"
    return judged("pads", about, worst(found), _limit(trial), diagnosis)


def cache(trial: Trial) -> Check:
    """The padded texts with a cache against the same without, and the position it counts to."""
    name, about = "cache", "a prompt and then token by token gives the logits of the whole at once"
    by_length = [rope.scaling for rope in trial.model.config.ropes if rope and rope.scaling]
    longest = trial.tokens.shape[1]
    for scaling in by_length:
        if scaling.kind in ("dynamic", "longrope") and longest > scaling.original_max_positions:
            reason = (
                f"{scaling.kind} positions turn a token by the length reached so far, and cached "
                "keys stay as they were: with a cache it is another computation by design"
            )
            return skipped(name, about, reason)
    logits, counted = trial.cached()
    found = []
    for row, mask in enumerate(trial.masks):
        got, want = logits[row][mask], np.asarray(trial.padded.logits[row])[mask]
        found.append(_named(gap(got, want, ("position",), ()), _padding(mask)))
    diagnosis = (
        f"tokens after a cache (the last {AFTER_CACHE}) are computed at other positions, or with "
        f"other keys and values, than in one run; the cache counts {counted.tolist()} tokens"
    )
    return judged(name, about, worst(found), _limit(trial), diagnosis)


def _two(got: tuple, want: tuple, where: str) -> Gap:
    """The larger gap of residuals `[l, t, d]` and logits `[t, v]`."""
    residual = gap(got[0], want[0], ("layer", "position"), ("layer",))
    return _named(worst([residual, gap(got[1], want[1], ("position",), ())]), where)


def _named(found: Gap, where: str) -> Gap:
    return Gap(found.size, f"{found.where}, {where}" if found.where else "")


def _padding(mask: np.ndarray) -> str:
    before, after = int(mask.argmax()), int(mask[::-1].argmax())
    inside = int((~mask).sum()) - before - after
    kinds = {"before": before, "after": after, "inside": inside}
    return ", ".join(f"{n} pad{'s' * (n > 1)} {place}" for place, n in kinds.items() if n)


def _limit(trial: Trial) -> float:
    dtype = trial.model.embed[...].dtype
    return limit(jnp.dtype(dtype), trial.model.config.n_layers)
