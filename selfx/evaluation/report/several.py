"""What a report shows of several evaluations together: a picture, a curve, a matrix.

Evaluations of one task and one set of questions stand in one picture. Where they learned from
unequal numbers of examples there is a curve over these; where explainers and targets differ there
is a matrix. What differs by nothing but the seed is in `seeds`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from selfx.evaluation.report.charts import Curve, counts, percents, picture
from selfx.evaluation.report.grids import STEPS
from selfx.evaluation.report.wording import percent, short

View = dict[str, Any]


def several(views: Sequence[View]) -> list[dict[str, Any]]:
    """Returns for each task that has more than one evaluation what is shown of them together."""
    return [
        {
            "task": task,
            "title": alike[0]["kind"].measures[alike[0]["kind"].headline].title,
            "headline": alike[0]["kind"].headline,
            "rows": [_row(view) for view in alike],
            "axis": percents(*_ends(alike)),
            "curve": _curve(alike),
            "matrix": _matrix(alike),
        }
        for task, alike in _by(views, _task).items()
        if len(alike) > 1
    ]


def examples_learned(scores: dict[str, Any]) -> int | None:
    """Returns from how many examples an explainer learned, as far as its scores tell."""
    provenance = scores.get("provenance", {})
    told = provenance.get("learned_from", {}).get("examples")
    counted = provenance.get("trace", {}).get("counts", {}).get("train")
    return told if told is not None else counted


def best_without(view: View) -> dict[str, float] | None:
    """Returns the headline score of the best control, with its interval."""
    found = [row for row in view["rows"] if (row["explainer"], row["control"]) == view["best"]]
    return found[0]["metrics"][view["kind"].headline] if found else None


def _own(view: View) -> dict[str, float]:
    row = next(row for row in view["rows"] if row["main"])
    return row["metrics"][view["kind"].headline]


def _row(view: View) -> dict[str, Any]:
    lift = view["scores"].get("lift")
    return {
        "key": view["key"],
        "label": view["name"],
        "own": _own(view),
        "other": best_without(view),
        "other_name": view["beside"],
        "lift": lift["metrics"][view["kind"].headline] if lift else None,
        "learned": examples_learned(view["scores"]),
        "seed": _training(view).get("seed"),
    }


def _ends(views: Sequence[View]) -> tuple[float, float]:
    """Returns the lowest and the highest bound of all that is shown."""
    shown = [score for view in views for score in (_own(view), best_without(view)) if score]
    return min(score["low"] for score in shown), max(score["high"] for score in shown)


def _curve(views: Sequence[View]) -> dict[str, Any] | None:
    """Returns a chart of scores over the examples learned from; None where these are all equal."""
    known = [(examples_learned(view["scores"]), view) for view in views]
    groups = _by([(n, view) for n, view in known if n], lambda pair: _series(pair[1]))
    groups = {name: its for name, its in groups.items() if len({n for n, _ in its}) > 1}
    if not groups:
        return None
    curves = []
    for name, group in groups.items():
        own, without = (
            (name, f"{name}, without") if len(groups) > 1 else ("own input", "without it")
        )
        curves += [
            _line(own, "own", group, _own),
            _line(without, "other", group, best_without),
        ]
    low, high = _ends(views)
    title = views[0]["kind"].measures[views[0]["kind"].headline].title
    return picture(
        f"{title} over the examples learned from",
        [curve for curve in curves if curve.points],
        counts([n for group in groups.values() for n, _ in group]),
        percents(low, high),
        "examples learned from",
        f"{title}, %",
    )


def _line(
    name: str, style: str, group: Sequence[tuple[Any, View]], of: Callable[[View], Any]
) -> Curve:
    """Returns points with a line through their means."""
    told = [(n, score, view) for n, view in group if (score := of(view)) is not None]
    means = {
        n: statistics.fmean(score["value"] for _, score, _ in its)
        for n, its in _by(told, lambda each: each[0]).items()
    }
    return Curve(
        name,
        style,
        line=sorted(means.items()),
        points=[
            (n, score["value"], f"{view['name']}: {percent(score['value'])}")
            for n, score, view in told
        ],
        bars=[(n, score["low"], score["high"]) for n, score, _ in told],
    )


def _matrix(views: Sequence[View]) -> dict[str, Any] | None:
    """Returns the scores of each explainer's model about each target, where either differs.

    Of explainers that learned from unequal numbers of examples it has those with most; one that
    learned without vectors explains no model but the text, and is not in it.
    """
    views = [view for view in views if not _training(view).get("blind")]
    most = max((examples_learned(view["scores"]) or 0 for view in views), default=0)
    views = [view for view in views if (examples_learned(view["scores"]) or 0) == most]
    cells = _by(views, lambda view: (view["scores"]["target"], _model(view)))
    targets, models = ([*dict.fromkeys(pair[side] for pair in cells)] for side in (0, 1))
    if "" in models or len(targets) + len(models) < 3:
        return None
    return {
        "models": [short(model) for model in models],
        "lines": [
            (
                short(target),
                [_square(cells.get((target, model)), target == model) for model in models],
            )
            for target in targets
        ],
    }


def _square(views: Sequence[View] | None, own: bool) -> dict[str, Any] | None:
    """Returns the mean score of some evaluations, with the interval where there is but one."""
    if not views:
        return None
    scores, others = [_own(view) for view in views], [best_without(view) for view in views]
    without = [other["value"] for other in others if other is not None]
    value = statistics.fmean(score["value"] for score in scores)
    return {
        "value": value,
        "step": min(max(round(STEPS * value), 0), STEPS),
        "n": len(views),
        "interval": scores[0] if len(views) == 1 else None,
        "without": statistics.fmean(without) if without else None,
        "own": own,
    }


def _training(view: View) -> dict[str, Any]:
    return view["scores"].get("provenance", {}).get("training") or {}


def _task(view: View) -> str:
    """Returns the name of the trace's task: sets of questions that differ share their answers'."""
    trace = view["scores"].get("provenance", {}).get("trace", {})
    return str(trace.get("task") or view["scores"]["task"])


def _model(view: View) -> str:
    return str(view["scores"].get("provenance", {}).get("explainer_model") or "")


def _series(view: View) -> str:
    """Returns who explains whom."""
    model, target = short(_model(view)) or view["name"], short(view["scores"]["target"])
    return f"{model} itself" if model == target else f"{model} on {target}"


def _by(items: Sequence[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
