"""Which features a report shows, and their texts: what `examples.json` holds.

They are spread evenly over the ranks of the explainer's score, from the lowest to the highest, so
that nobody chose them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.tasks.example import Example

FEATURES_SHOWN = 6
TEXTS_SHOWN = {"top": 3, "sample": 1, "random": 1}
TOKENS_SHOWN = 64


def shown(
    examples: Sequence[Example], evidence: Sequence[Evidence], scores: np.ndarray
) -> dict[str, Any]:
    """Returns some features with their texts, from the lowest score to the highest."""
    rows = spread(scores, FEATURES_SHOWN)
    return {"features": [_feature(examples[row], evidence[row]) for row in rows]}


def spread(scores: np.ndarray, count: int) -> list[int]:
    """Returns rows at evenly spaced ranks of their scores, the lowest and the highest included."""
    order = np.argsort(scores, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order)))
    return [int(order[round(place)]) for place in places]


def _feature(example: Example, evidence: Evidence) -> dict[str, Any]:
    known = ("layer", "feature", "site", "dictionary")
    return {
        "id": example.id,
        **{name: example.details.get(name) for name in known},
        "frequency": evidence.frequency,
        "peak": evidence.peak,
        "promoted": list(evidence.promoted),
        "suppressed": list(evidence.suppressed),
        "texts": [
            _text(excerpt)
            for kind, count in TEXTS_SHOWN.items()
            for excerpt in evidence.of(kind)[:count]
        ],
    }


def _text(excerpt: Excerpt) -> dict[str, Any]:
    """Returns an excerpt, of a long one the stretch around its peak; uncounted tokens are 0."""
    counted = np.where(np.arange(len(excerpt.pieces)) >= excerpt.skip, excerpt.activations, 0.0)
    start = 0
    if len(counted) > TOKENS_SHOWN:
        middle = int(counted.argmax()) - TOKENS_SHOWN // 2
        start = min(max(middle, 0), len(counted) - TOKENS_SHOWN)
    stop = start + TOKENS_SHOWN
    return {
        "kind": excerpt.kind,
        "pieces": list(excerpt.pieces[start:stop]),
        "activations": [round(float(level), 4) for level in counted[start:stop]],
        "cut": [start > 0, stop < len(counted)],
    }
