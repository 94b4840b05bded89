"""How true a description is, by what can be predicted from it.

Simulation compares predicted with true activations token by token. The paper's figure (arXiv
2511.08579) is the size of Pearson's correlation over the top texts alone, so a description that
says the opposite scores as high; `Simulation.paper` is that figure, for comparison, and beside it
stand the signed correlation, the correlation over texts taken at random as well, and how much of
the activation the prediction explains as it stands and after a line fitted on *other* texts.

Detection asks whether a text excites the feature at all, fuzzing whether the right tokens are
marked (Paulo et al. 2024, arXiv 2410.13928). Both are the chance that a positive is ranked above a
negative: 0.5 is guessing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.features.scores.simulate import Simulator

NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Simulation:
    """How well predicted activations agree with true ones; NaN where nothing varies.

    Attributes:
      correlation: Pearson's, signed, over top and random texts together.
      top: the same over the top texts.
      random: the same over the random ones.
      paper: its size over the top texts, 0 where it is not defined, as the paper reports it.
      explained: the share of variance that the prediction explains as it stands, ten being the
        feature's highest activation; it may be negative.
      calibrated: the same after a line from predictions to activations, fitted for each half of
        the texts on the other half; a feature predicted upside down gains nothing by it.
      tokens: how many were compared.
    """

    correlation: float
    top: float
    random: float
    paper: float
    explained: float
    calibrated: float
    tokens: int


def score_simulation(
    descriptions: Sequence[str], evidence: Sequence[Evidence], simulator: Simulator
) -> list[Simulation]:
    """How each description fares on its feature's top and random texts."""
    texts = [each.of("top") + each.of("random") for each in evidence]
    found = simulator(descriptions, texts)
    return [_scored(some, predicted) for some, predicted in zip(texts, found, strict=True)]


def _scored(texts: Sequence[Excerpt], predicted: Sequence[np.ndarray]) -> Simulation:
    parts = [(e.activations[e.skip :], p[e.skip :]) for e, p in zip(texts, predicted, strict=True)]
    by_kind = {
        kind: pearson(*_joined([p for e, p in zip(texts, parts, strict=True) if e.kind == kind]))
        for kind in ("top", "random")
    }
    true, guess = _joined(parts)
    peak = max((text.peak for text in texts), default=0.0)
    return Simulation(
        correlation=pearson(true, guess),
        **by_kind,
        paper=float(np.nan_to_num(abs(by_kind["top"]))),
        explained=explained(true, guess * peak / 10),
        calibrated=explained(true, _calibrated(parts)),
        tokens=len(true),
    )


def pearson(true: np.ndarray, guess: np.ndarray) -> float:
    """Pearson's correlation, signed; NaN where either does not vary."""
    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(guess) == 0:
        return NAN
    return float(np.corrcoef(true.astype(np.float64), guess.astype(np.float64))[0, 1])


def explained(true: np.ndarray, guess: np.ndarray) -> float:
    """The share of the variance of `true` that `guess` explains; NaN where there is none."""
    spread = float(((true - true.mean()) ** 2).sum()) if len(true) else 0.0
    return 1 - float(((true - guess) ** 2).sum()) / spread if spread > 0 else NAN


def _calibrated(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Predictions after a rising line, fitted for every other text on the rest."""
    fitted = [np.zeros_like(true) for true, _ in parts]
    for half in (0, 1):
        slope, shift = _line(*_joined(parts[1 - half :: 2]))
        for index in range(half, len(parts), 2):
            fitted[index] = slope * parts[index][1] + shift
    return np.concatenate(fitted) if fitted else np.zeros(0)


def _line(true: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    """Slope, never negative, and shift of the least squares."""
    if not len(true):
        return 0.0, 0.0
    spread = float(((guess - guess.mean()) ** 2).sum())
    common = float(((guess - guess.mean()) * (true - true.mean())).sum())
    slope = max(common / spread, 0.0) if spread > 0 else 0.0
    return slope, float(true.mean() - slope * guess.mean())


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not parts:
        return np.zeros(0), np.zeros(0)
    true, guess = zip(*parts, strict=True)
    return np.concatenate(true), np.concatenate(guess)


def score_detection(
    descriptions: Sequence[str], evidence: Sequence[Evidence], simulator: Simulator
) -> list[float]:
    """How surely each description tells texts that excite its feature from texts that do not.

    Positives are the top and sampled texts, negatives the random ones where the feature is off. A
    text is ranked by its highest prediction. NaN where either side is empty.
    """
    texts = [[text for text in each.excerpts if _is_case(text)] for each in evidence]
    found = simulator(descriptions, texts)
    return [
        ranked(
            np.array([text.peak > 0 for text in some], bool),
            np.array([p[text.skip :].max(initial=0) for text, p in zip(some, levels, strict=True)]),
        )
        for some, levels in zip(texts, found, strict=True)
    ]


def _is_case(text: Excerpt) -> bool:
    return text.kind != "random" or text.peak == 0


def score_fuzzing(
    descriptions: Sequence[str],
    evidence: Sequence[Evidence],
    simulator: Simulator,
    *,
    seed: int = 0,
) -> list[float]:
    """How surely each description tells texts with the right tokens marked from others.

    Of every text that excites the feature there are two copies: marks where it is on (at a tenth
    of its highest activation or more), and as many marks drawn among the other tokens. A copy is
    ranked by the mean prediction at its marks. NaN where nothing can be marked both ways.
    """
    texts = [[text for text in each.excerpts if text.peak > 0] for each in evidence]
    found = simulator(descriptions, texts)
    rng = np.random.default_rng(seed)
    scores = []
    for each, some, levels in zip(evidence, texts, found, strict=True):
        right, marked = [], []
        for text, predicted in zip(some, levels, strict=True):
            for correct, marks in _marks(text, each.peak, rng):
                right.append(correct)
                marked.append(float(predicted[marks].mean()))
        scores.append(ranked(np.array(right, bool), np.array(marked)))
    return scores


def _marks(text: Excerpt, peak: float, rng: np.random.Generator) -> list[tuple[bool, np.ndarray]]:
    """The two copies' marks, or none."""
    counted = np.arange(len(text.pieces)) >= text.skip
    on = np.flatnonzero(counted & (text.activations >= 0.1 * peak))
    off = np.flatnonzero(counted & (text.activations < 0.1 * peak))
    if not len(on) or len(off) < len(on):
        return []
    return [(True, on), (False, rng.choice(off, len(on), replace=False))]


def ranked(positive: np.ndarray, levels: np.ndarray) -> float:
    """The chance that a positive has a higher level than a negative, ties counting half.

    The area under the ROC curve (Mann and Whitney's U). NaN where either side is empty.
    """
    yes, no = levels[positive], levels[~positive]
    if not len(yes) or not len(no):
        return NAN
    above = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    return float(above)
