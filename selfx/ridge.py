"""Ridge regression whose strength is chosen by leaving groups out: what can be read linearly.

As a probe it says what a vector holds (`selfx.evaluation.baselines.probe`); as the start of what
vectors go through it shows that to an explainer (`selfx.explainer.probed`).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

STRENGTHS = tuple(10.0**power for power in range(-2, 7))
"""Of the ridge; the one whose predictions of left-out examples are best is taken."""


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A linear map and its constant.

    Attributes:
      weights: float64 `[d, c]`.
      constant: float64 `[c]`.
      strength: the penalty that was chosen.
      left_out: float64 `[n, c]`, what is predicted of each example without its group.
      error: the squared error of that, summed.
    """

    weights: np.ndarray
    constant: np.ndarray
    strength: float
    left_out: np.ndarray
    error: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """float64 `[n, c]`."""
        return features @ self.weights + self.constant


def fit_ridge(
    features: np.ndarray,
    wanted: np.ndarray,
    groups: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Ridge:
    """Returns the ridge regression of `wanted` `[n, c]` on `features` `[n, d]`.

    Its strength has the least squared error on groups left out one at a time, which one
    decomposition gives for all of them (Golub, Heath and Wahba 1979, for single examples).

    Args:
        features, wanted: what is read from, and what is read.
        groups: what belongs together; None leaves examples out singly. Of a question that comes
            several times the others would tell, and the strength would be far too small.
        strengths: to choose from.
    """
    members = _members(groups, len(features))
    middle, level = features.mean(axis=0), wanted.mean(axis=0)
    left, sizes, right = np.linalg.svd(features - middle, full_matrices=False)
    turned = left.T @ (wanted - level)

    def missed(strength: float) -> np.ndarray:
        kept = sizes**2 / (sizes**2 + strength)
        gaps = wanted - level - left @ (kept[:, None] * turned)
        for rows in members:
            own = (left[rows] * kept) @ left[rows].swapaxes(1, 2) + 1 / len(features)
            rest = np.eye(rows.shape[1]) * (1 + 1e-12) - own
            gaps[rows] = np.linalg.solve(rest, gaps[rows])
        return gaps

    errors = {strength: float((missed(strength) ** 2).sum()) for strength in strengths}
    strength = min(strengths, key=errors.__getitem__)
    weights = right.T @ ((sizes / (sizes**2 + strength))[:, None] * turned)
    unseen = wanted - missed(strength)
    return Ridge(weights, level - middle @ weights, strength, unseen, errors[strength])


def _members(groups: Sequence[str] | None, count: int) -> list[np.ndarray]:
    """Returns the rows of the groups, those of one size together: int `[g, size]` each."""
    if groups is None:
        return [np.arange(count)[:, None]]
    places: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        places[group].append(row)
    by_size: dict[int, list[list[int]]] = defaultdict(list)
    for rows in places.values():
        by_size[len(rows)].append(rows)
    return [np.array(several) for several in by_size.values()]
