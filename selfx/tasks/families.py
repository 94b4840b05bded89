"""Directions that are nearly the same, so that one of them is not held out from the other."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

ROWS = 1024


def families(vectors: np.ndarray, alike: float) -> np.ndarray:
    """int `[n]`: the same number for directions that a chain of cosines from `alike` on connects.

    Args:
      vectors: `[n, d]`.
      alike: the least cosine; 1 keeps all apart but equal directions.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    bound = alike - 1e-6
    links = []
    for start in range(0, len(unit), ROWS):
        one, other = np.nonzero(unit[start : start + ROWS] @ unit.T >= bound)
        links.append(np.stack([one + start, other]))
    one, other = np.concatenate(links, axis=1)
    ones = np.ones(len(one), bool)
    graph = coo_matrix((ones, (one, other)), shape=(len(unit), len(unit)))
    return connected_components(graph, directed=False)[1]
