"""What stands in `scores.json` beside each run's scores, for a reader who doubts them.

`lift`        what the vector adds, with its test and the smallest lift that could have been seen
`paired`      the explainer against every other row, on the same examples
`released`    verdicts by the rules of the paper's released code
`calibration` whether the explainer knows when it is right
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selfx.evaluation.answers.kinds import VERDICTS, Kind
from selfx.evaluation.answers.released import RELEASED, score_released
from selfx.evaluation.answers.scoring import Answered, is_right
from selfx.evaluation.controls import WITHOUT_VECTOR
from selfx.evaluation.statistics.calibration import HEADLINE, calibrated, calibration_of
from selfx.evaluation.statistics.intervals import intervals, paired_differences
from selfx.evaluation.statistics.paired import swap_test
from selfx.evaluation.statistics.power import smallest_differences
from selfx.evaluation.statistics.recalibrate import platt_in_folds
from selfx.evaluation.statistics.rows import Metric, Rows

if TYPE_CHECKING:
    from selfx.tasks.example import Example

FEWEST = 50
"""With fewer answers nothing is fitted in folds."""

Named = Mapping[tuple[str, str], Rows]
"""The outcomes of each run, by explainer and control."""


def lift(kind: Kind, outcomes: Named, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Returns what the vector adds, as `compared` has it.

    It is over the best row without the vector by the headline score; None where there is none.
    """
    for explainer, control in outcomes:
        controls = [name for name in WITHOUT_VECTOR if (explainer, name) in outcomes]
        if control == "none" and controls:
            best = max(controls, key=lambda name: kind.headline_of(outcomes[explainer, name]))
            own, other = outcomes[explainer, "none"], outcomes[explainer, best]
            found = compared(
                own, other, kind.metrics, kind.headline, resamples=resamples, seed=seed
            )
            return {"explainer": explainer, "control": best, **found}
    return None


def compared(
    own: Rows,
    other: Rows,
    metrics: Mapping[str, Metric],
    headline: str,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Returns of two explainers on the same examples `metrics`, the differences with intervals;
    `test`, that of the headline; and `smallest`, the smallest differences that could be seen."""
    drawn: dict[str, Any] = {"resamples": resamples, "seed": seed}
    return {
        "metrics": paired_differences(own, other, metrics, **drawn),
        "test": swap_test(metrics[headline], own, other, seed=seed).to_json(),
        "smallest": smallest_differences(own, other, metrics, **drawn),
    }


def paired(
    kind: Kind, outcomes: Named, main: tuple[str, str], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Returns the explainer's headline score against every other row's, in their order."""
    one = {kind.headline: kind.metrics[kind.headline]}
    own = outcomes[main]
    return [
        {
            "explainer": name[0],
            "control": name[1],
            **compared(own, rows, one, kind.headline, resamples=resamples, seed=seed),
        }
        for name, rows in outcomes.items()
        if name != main
    ]


def released(
    kind: Kind,
    examples: Sequence[Example],
    answered: Sequence[Answered],
    *,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Returns each run's scores by the released rules; none but of verdicts."""
    if kind is not VERDICTS:
        return []
    how = {"resamples": resamples, "seed": seed}
    return [
        {
            "explainer": run.explainer,
            "control": run.control,
            "metrics": intervals(score_released(examples, run.answers), RELEASED, **how),
        }
        for run in answered
    ]


def calibrations(
    answered: Sequence[Answered], rated: Sequence[Rows], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Returns for each control under which confidence was measured the calibration `as said`, and
    after each fit; with what the fits rest on, under `fitted`. Empty where none was measured.

    The fit in folds rests on the other questions of the evaluation itself."""
    measured = [(run, rows, run.sure) for run, rows in zip(answered, rated, strict=True)]
    found: dict[str, Any] = {}
    for run, rows, sure in measured:
        if sure is None:
            continue
        right, every = is_right(rows), {"as said": sure.confidence, **sure.scaled}
        if run.control == "none" and len(right) >= FEWEST:
            said = np.log(np.maximum(sure.confidence, np.finfo(np.float64).tiny))
            every["platt, in folds"] = platt_in_folds(said, right, rows.group, seed=seed)
        found[run.control] = {
            name: calibration_of(
                calibrated(np.asarray(confidence), right, rows.group),
                resamples=resamples,
                seed=seed,
            )
            for name, confidence in every.items()
        }
        if sure.fitted:
            found["fitted"] = dict(sure.fitted)
    return {"headline": HEADLINE, "of": "exact_match", **found} if found else {}
