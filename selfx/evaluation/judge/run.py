"""Judging the descriptions of an evaluation folder: asked once, kept, summed up with the others."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

from selfx.evaluation.judge.kept import (
    RATINGS,
    is_judged,
    label_of,
    load_judged,
    write_judged,
    write_ratings,
)
from selfx.evaluation.judge.raters import Judge
from selfx.evaluation.judge.rating import Pair
from selfx.evaluation.judge.summary import summarise
from selfx.evaluation.judge.work import Work
from selfx.evaluation.kept import Keep, Kept
from selfx.interventions.batching import chunks
from selfx.progress import Report, silent

BLOCK = 64
"""Pairs rated here between two looks at the disk; endpoints' answers are kept one by one."""


def judge_descriptions(
    work: Work,
    judge: Judge,
    *,
    seed: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """All judges' scores of a folder once this one has rated what is to be judged.

    Leaves `judged.json` and the judge's ratings in the folder, and its other files as they are. The
    same call after a kill asks only what is left, and nothing once it has ended.

    Args:
      work: what `look` found in the folder.
      judge: who rates.
      seed: of the bootstrap.
      report: told of progress.

    Raises:
      SelfxError: the judge cannot be asked; what it had answered is kept.
    """
    if is_judged(work, judge):
        done = load_judged(work.folder)
        if done is not None and judge.about in [each["about"] for each in done["judges"]]:
            return done
    else:
        keep = Kept(work.folder / RATINGS / f".{label_of(judge)}")
        rated = _rated(work.pairs, judge, keep, report)
        ratings = dict(zip(work.pairs, rated, strict=True))
        write_ratings(work, judge, [item.judged(ratings) for item in work.items])
        keep.forget()
    summary = summarise(work.folder, work.digest, seed)
    write_judged(work.folder, summary)
    return summary


def _rated(pairs: Sequence[Pair], judge: Judge, keep: Keep, report: Report) -> list[float | None]:
    if judge.cost(pairs) is not None:
        return judge(pairs, report)
    found: list[float | None] = []
    for block in chunks(pairs, BLOCK):
        key = hashlib.sha256(repr((judge.about, list(block))).encode("utf-8", "replace"))
        found += keep("rated", key.hexdigest()[:16], functools.partial(judge, block))
        report(len(found), len(pairs), "descriptions judged")
    return found
