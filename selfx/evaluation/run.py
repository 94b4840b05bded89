"""Evaluating an explainer: it answers under every control, baselines beside it, all scored."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import selfx
from selfx.errors import SelfxError
from selfx.evaluation.answers.descriptions import load_descriptions
from selfx.evaluation.answers.kinds import KINDS, SCORES, Kind, kind_of
from selfx.evaluation.answers.scoring import BY_VERDICT, Answered, Scoring
from selfx.evaluation.answers.word_answers import BY_WORDS
from selfx.evaluation.asked import Asked
from selfx.evaluation.baselines.named import MODELS, Bench, looked_up
from selfx.evaluation.confidence import with_confidence
from selfx.evaluation.controls import ALL, check_control
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.kept import Keep, Kept
from selfx.evaluation.report.page import write_report
from selfx.evaluation.rest import Rest, load_rest
from selfx.evaluation.scores import write_evaluation
from selfx.explainer.answer import Explainer, check_vectors
from selfx.progress import Report, silent
from selfx.tasks.example import Example
from selfx.tasks.graded import keeps_scores
from selfx.tasks.store import load_examples, load_trace

REPORT = "report.html"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What to ask and how.

    Attributes:
      controls: names in `selfx.evaluation.controls.ALL`, of which those run that change anything of
        a task's examples; `none`, the question as it is, always comes first.
      baselines: names of baselines that fit the task; None takes all that do.
      limit: ask this many test examples, drawn by seed; 0 asks all. Contrast sets stay whole, so
        that the last may go beyond it.
      max_new_tokens: where an answer that does not end is cut; 0 as the kind of answer wants it.
      beams: answers written at once, of which the likeliest counts; 1 is greedy, as SelfIE's own
        prompt always is; 0 is as the training of whoever is asked asks for.
      batch_size: questions at once.
      seed: of the controls, the bootstrap, and the draw.
      simulator: of descriptions, a model or run trained to simulate; "" for the one that needs no
        model.
      other_target: whether the trace may be of another target than the explainer learned of.
      text_only: the folder of a run that was trained without vectors, for a row of its own; "" for
        none.
      other_vectors: a model whose vectors at the same places are given too; "" for none.
      other_projection: the folder of a projection from it to the target, fitted; "" draws one where
        widths differ.
      confidence: whether to measure how sure the explainer is of its answers.
    """

    controls: tuple[str, ...] = ALL
    baselines: tuple[str, ...] | None = None
    limit: int = 0
    max_new_tokens: int = 0
    beams: int = 0
    batch_size: int = 32
    seed: int = 0
    simulator: str = ""
    other_target: bool = False
    text_only: str = ""
    other_vectors: str = ""
    other_projection: str = ""
    confidence: bool = True

    def check(self) -> None:
        """Raises SelfxError for a control or baseline that does not exist."""
        for name in self.controls:
            check_control(name)
        known = dict.fromkeys(name for kind in KINDS.values() for name in kind.baselines)
        for name in self.baselines or ():
            if name not in known:
                raise SelfxError(f"baseline {name!r}", expected=f"one of {', '.join(known)}")
        if min(self.limit, self.max_new_tokens, self.beams) < 0 or self.batch_size < 1:
            raise SelfxError(
                "a negative limit, length or number of beams, or no question at once",
                expected="positive sizes",
            )

    def fitted(self, kind: Kind, held: Collection[str]) -> Evaluation:
        """The settings for a kind of answers, with what they leave open filled in.

        Args:
          kind: of answers.
          held: what of `selfx.evaluation.answers.kinds.NEEDS` the trace has.

        Raises:
          SelfxError: a baseline that does not fit.
        """
        room = self.max_new_tokens or kind.room
        fitting = kind.fitting(self.baselines, held)
        return dataclasses.replace(self, baselines=fitting, max_new_tokens=room)


def evaluate(
    explainer: Explainer,
    data: Path,
    out: Path,
    settings: Evaluation = Evaluation(),
    *,
    answers: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Scores an explainer on a trace's test split; returns what `scores.json` holds.

    Leaves `scores.json`, `predictions.parquet` and `report.html` in `out`. Answers are kept as they
    come, so that the same call after a kill asks only what is left, and nothing once it has ended.

    Args:
      explainer: who is asked.
      data: a trace folder.
      out: the evaluation folder.
      settings: what to ask and how.
      answers: where answers are kept as they come, and stay, so that other evaluations find what
        they have in common with this one; None keeps them in `out` until it has ended.
      report: told of progress.

    Raises:
      SelfxError: a control or baseline that is unknown or does not fit, an empty split, vectors of
        another width.
    """
    settings.check()
    trace = load_trace(data)
    kind = kind_of(trace["task"])
    train, test = load_examples(data, "train"), _draw(load_examples(data, "test"), settings)
    settings = settings.fitted(kind, _held(train, test))
    check_vectors(test, explainer)
    if not settings.other_target:
        _check_target(trace, explainer)
    rest = load_rest(explainer, trace, test, settings)
    plain = looked_up(kind, settings.baselines or (), train, test)
    keep = Kept(answers or Path(out) / ".answers")
    scoring = _SCORINGS[kind.name](Path(data), train, test, settings, keep, report)
    asked = Asked(explainer, test, settings, keep, report)
    provenance = _provenance(explainer, trace, settings, scoring)
    provenance |= {"asked": asked.digest(train), **rest.record()}
    done = _finished(Path(out), kind, provenance)
    if done is not None:
        return done
    bench = Bench(Path(data), train, test, asked, scoring)
    scores = _written(Path(out), bench, rest, plain, str(trace["target"]), provenance)
    if answers is None:
        keep.forget()
    return scores


def _held(train: Sequence[Example], test: Sequence[Example]) -> set[str]:
    """What there is beside the questions, that some baselines go by."""
    held = {"vector"} if any(example.vectors is not None for example in test) else set()
    return held | ({"score"} if keeps_scores([*train, *test]) else set())


def _written(
    out: Path,
    bench: Bench,
    rest: Rest,
    plain: Mapping[str, Answered],
    target: str,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """The scores, after asking what is to be asked and writing all files."""
    answered = _answered(bench, rest, plain)
    scores = write_evaluation(
        out,
        bench.test,
        answered,
        target=target,
        scoring=bench.scoring,
        seed=bench.asked.settings.seed,
        provenance=provenance | _notes(answered),
    )
    write_report(out / REPORT, [load_evaluation(out)])
    return scores


def _answered(bench: Bench, rest: Rest, plain: Mapping[str, Answered]) -> list[Answered]:
    """What the explainer says under every control that changes anything, what the others say that
    were named, and every baseline, in the settings' order."""
    asked = bench.asked
    baselines = asked.settings.baselines or ()
    under = (asked.under(control) for control in dict.fromkeys(("none", *asked.settings.controls)))
    answered = [
        *(said for said in under if said is not None),
        *rest.answers(asked),
        *(plain.get(name) or MODELS[name](bench) for name in baselines),
    ]
    return with_confidence(bench, answered) if asked.settings.confidence else answered


def _by_examples(
    scoring: Scoring,
    data: Path,
    train: Sequence[Example],
    test: Sequence[Example],
    settings: Evaluation,
    keep: Keep,
    report: Report,
) -> Scoring:
    """A scoring that needs nothing but the examples."""
    if settings.simulator:
        raise SelfxError(
            f"simulator {settings.simulator} for {scoring.kind.name}",
            expected="a trace of feature descriptions",
            hint="leave the simulator out",
        )
    return scoring


_SCORINGS: dict[str, Callable[..., Scoring]] = {
    "verdicts": functools.partial(_by_examples, BY_VERDICT),
    "descriptions": load_descriptions,
    "words": functools.partial(_by_examples, BY_WORDS),
}


def _finished(out: Path, kind: Kind, provenance: dict[str, Any]) -> dict[str, Any] | None:
    """The scores in `out`, if they are of this very evaluation."""
    if not all((out / name).is_file() for name in (*kind.files, REPORT)):
        return None
    try:
        scores = json.loads((out / SCORES).read_text(encoding="utf-8"))
        kept = scores["provenance"]
    except (ValueError, TypeError, KeyError):
        return None
    same = all(kept.get(key) == value for key, value in provenance.items())
    return scores if same else None


def _check_target(trace: dict[str, Any], explainer: Explainer) -> None:
    """Raises SelfxError where the trace is of a target that the explainer did not learn of."""
    made = trace.get("target_hash")
    if made and explainer.targets and made not in explainer.targets:
        raise SelfxError(
            f"a trace of {trace['target']} with hash {made[:12]}",
            expected=f"{', '.join(h[:12] for h in explainer.targets)}, which {explainer.name} "
            "learned to explain",
            hint="--other-target to ask it all the same",
        )


def _draw(test: list[Example], settings: Evaluation) -> list[Example]:
    if not test:
        raise SelfxError("no test examples", expected="a trace folder with test-*.parquet")
    if not 0 < settings.limit < len(test):
        return test
    rng = np.random.default_rng(settings.seed)
    sets = [example.details.get("set") or example.id for example in test]
    names = list(dict.fromkeys(sets))
    if len(names) == len(test):
        chosen = rng.choice(len(test), settings.limit, replace=False)
        return [test[index] for index in sorted(chosen)]
    # A part of a contrast set would not hold what text alone can do at most.
    kept: set[str] = set()
    for name in rng.permutation(names):
        kept.add(str(name))
        if sum(map(kept.__contains__, sets)) >= settings.limit:
            break
    return [example for example, name in zip(test, sets, strict=True) if name in kept]


def _provenance(
    explainer: Explainer, trace: dict[str, Any], settings: Evaluation, scoring: Scoring
) -> dict[str, Any]:
    record = {
        "version": selfx.__version__,
        "explainer": explainer.name,
        "explainer_model": explainer.base.name,
        "explainer_hash": explainer.base.hash,
        "training": dataclasses.asdict(explainer.training),
        "evaluation": dataclasses.asdict(settings),
        "trace": {key: value for key, value in trace.items() if key != "columns"},
        **scoring.record(),
    }
    return json.loads(json.dumps(record))  # as a reader of scores.json finds it


def _notes(answered: Sequence[Answered]) -> dict[str, Any]:
    """What baselines said of themselves."""
    notes = {run.explainer: dict(run.note) for run in answered if run.note}
    return {"baselines": notes} if notes else {}
