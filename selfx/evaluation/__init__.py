"""How far an explainer's answers can be trusted: scores with intervals, beside their controls."""

from selfx.evaluation.answers.kinds import DESCRIPTIONS, VERDICTS, WORDS, Kind, Measure, kind_of
from selfx.evaluation.answers.metrics import METRICS, Outcomes, score
from selfx.evaluation.answers.parsing import Parsed, normalise, parse
from selfx.evaluation.answers.released import RELEASED, score_released
from selfx.evaluation.answers.scoring import Answered, Scoring, Verdicts
from selfx.evaluation.answers.word_answers import WordAnswers
from selfx.evaluation.baselines.constant import BASELINES, get_baseline, majority, majority_per_cell
from selfx.evaluation.controls import CONTROLS, get_control
from selfx.evaluation.folder import load_evaluation
from selfx.evaluation.report.page import write_report
from selfx.evaluation.scores import (
    build_scores,
    write_evaluation,
    write_predictions,
    write_scores,
)
from selfx.evaluation.statistics.calibration import CALIBRATION, calibrated, calibration_of
from selfx.evaluation.statistics.intervals import (
    Interval,
    interval,
    intervals,
    paired_difference,
    paired_differences,
)
from selfx.evaluation.statistics.paired import PairedTest, mcnemar, swap_test
from selfx.evaluation.statistics.power import smallest_difference, smallest_differences
from selfx.evaluation.statistics.rows import Numbers, Rows, mean_of
from selfx.evaluation.statistics.seeds import over_seeds
from selfx.evaluation.statistics.simulatability import simulatability_of, simulated

__all__ = [
    "BASELINES",
    "CALIBRATION",
    "CONTROLS",
    "DESCRIPTIONS",
    "METRICS",
    "RELEASED",
    "VERDICTS",
    "WORDS",
    "Answered",
    "Interval",
    "Kind",
    "Measure",
    "Numbers",
    "Outcomes",
    "PairedTest",
    "Parsed",
    "Rows",
    "Scoring",
    "Verdicts",
    "WordAnswers",
    "build_scores",
    "calibrated",
    "calibration_of",
    "get_baseline",
    "get_control",
    "interval",
    "intervals",
    "kind_of",
    "load_evaluation",
    "majority",
    "majority_per_cell",
    "mcnemar",
    "mean_of",
    "normalise",
    "over_seeds",
    "paired_difference",
    "paired_differences",
    "parse",
    "score",
    "score_released",
    "simulatability_of",
    "simulated",
    "smallest_difference",
    "smallest_differences",
    "swap_test",
    "write_evaluation",
    "write_predictions",
    "write_report",
    "write_scores",
]
