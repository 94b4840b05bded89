"""How far an explainer's answers can be trusted: scores with intervals, beside their controls."""

from selfx.evaluation.baselines import BASELINES, get_baseline, majority, majority_per_cell
from selfx.evaluation.controls import CONTROLS, get_control
from selfx.evaluation.intervals import (
    Interval,
    interval,
    intervals,
    paired_difference,
    paired_differences,
)
from selfx.evaluation.kinds import DESCRIPTIONS, VERDICTS, WORDS, Kind, Measure, kind_of
from selfx.evaluation.metrics import METRICS, Outcomes, score
from selfx.evaluation.parsing import Parsed, normalise, parse
from selfx.evaluation.report import load_evaluation, write_report
from selfx.evaluation.rows import Numbers, Rows, mean_of
from selfx.evaluation.scores import (
    build_scores,
    write_evaluation,
    write_predictions,
    write_scores,
)
from selfx.evaluation.scoring import Answered, Scoring, Verdicts
from selfx.evaluation.word_answers import WordAnswers

__all__ = [
    "BASELINES",
    "CONTROLS",
    "DESCRIPTIONS",
    "METRICS",
    "VERDICTS",
    "WORDS",
    "Answered",
    "Interval",
    "Kind",
    "Measure",
    "Numbers",
    "Outcomes",
    "Parsed",
    "Rows",
    "Scoring",
    "Verdicts",
    "WordAnswers",
    "build_scores",
    "get_baseline",
    "get_control",
    "interval",
    "intervals",
    "kind_of",
    "load_evaluation",
    "majority",
    "majority_per_cell",
    "mean_of",
    "normalise",
    "paired_difference",
    "paired_differences",
    "parse",
    "score",
    "write_evaluation",
    "write_predictions",
    "write_report",
    "write_scores",
]
