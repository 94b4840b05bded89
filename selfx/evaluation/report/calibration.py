"""What the report shows of calibration: whether an explainer knows when it is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from selfx.evaluation.report.charts import Curve, Scale, percents, picture
from selfx.evaluation.report.wording import percent

METRICS = {
    "ece": ("ECE", "mean distance of confidence from accuracy, over 15 bins of equal width"),
    "ece_10": ("ECE, 10 bins", "the same over 10"),
    "ece_by_mass": ("ECE, equal mass", "the same over 15 bins of as many answers each"),
    "brier": ("Brier", "mean squared distance of confidence from outcome"),
    "aurc": ("AURC", "mean share of wrong answers among the surest, over all coverages"),
    "confidence": ("Confidence", "the mean"),
    "accuracy": ("Right", "share of the answers"),
}
_UNIT = tuple((i / 4, str(25 * i)) for i in range(5))
_WIDEST = 9.0

Row = dict[str, Any]


def calibration(found: Any, prefix: str = "") -> Row | None:
    """Returns the tables and charts of what `scores.json` holds of calibration; None without any.

    Args:
        found: under the key `calibration`: one measurement, or several by name.
        prefix: of the names.
    """
    measured = _measured(found, prefix)
    if not measured:
        return None
    names = dict.fromkeys(name for one in measured.values() for name in one["metrics"])
    return {
        "metrics": {name: METRICS.get(name, (name, "")) for name in names},
        "rows": [
            {"label": label, "scores": [one["metrics"].get(name) for name in names], **one}
            for label, one in measured.items()
        ],
        "charts": [
            {"label": label, "bins": one["bins"], "reliability": _reliability(one["bins"])}
            for label, one in measured.items()
        ],
        "coverage": _coverage(measured),
    }


def _measured(found: Any, name: str) -> dict[str, Row]:
    """Returns each measurement, called by the keys on the way to it."""
    if not isinstance(found, Mapping):
        return {}
    if "bins" in found and "coverage" in found:
        return {name or "own input": dict(found)}
    parts = (_measured(part, f"{name} · {key}" if name else key) for key, part in found.items())
    return {label: one for part in parts for label, one in part.items()}


def _reliability(bins: Sequence[Row]) -> Row:
    """Returns a chart of accuracy over confidence; a point's area is its share of the answers."""
    whole = sum(each["count"] for each in bins)
    points = [(each["confidence"], each["accuracy"], _title(each)) for each in bins]
    sizes = [2.5 + _WIDEST * math.sqrt(each["count"] / max(whole, 1)) for each in bins]
    scale = Scale(0, 1, _UNIT)
    drawn = picture(
        "Accuracy over confidence",
        [
            Curve("as it should be", "ideal", line=[(0, 0), (1, 1)]),
            Curve("as it is", "own", line=[point[:2] for point in points], points=points),
        ],
        scale,
        scale,
        "confidence, %",
        "right, %",
    )
    drawn["curves"][1]["sizes"] = sizes
    return drawn


def _title(each: Row) -> str:
    return (
        f"{each['count']} answers at {percent(each['confidence'])} % confidence, "
        f"{percent(each['accuracy'])} % right"
    )


def _coverage(measured: Mapping[str, Row]) -> Row:
    """Returns a chart of the share of wrong answers over how many questions are answered."""
    curves = [
        Curve(
            label,
            "own" if number == 0 else "other",
            line=[(each["coverage"], each["risk"]) for each in one["coverage"]],
        )
        for number, (label, one) in enumerate(measured.items())
    ]
    highest = max((y for curve in curves for _, y in curve.line), default=0)
    return picture(
        "Risk over coverage",
        curves,
        Scale(0, 1, _UNIT),
        percents(0, highest),
        "share of the questions answered, surest first, %",
        "wrong, %",
    )
