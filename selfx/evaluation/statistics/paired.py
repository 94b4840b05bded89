"""Are two explainers different on the same examples? Tests that assume no distribution.

If they do not differ, it is chance which of the two gave which answers to a cluster of examples.
So whole clusters are swapped between them, all ways where these are few, else many at random, and
the difference is as rare as a difference that large among the swaps. For a mean this is the
sign-flip test of the clusters' sums; any other metric is scored anew on each swap. The p-value is
two-sided and holds however few clusters there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from selfx.errors import SelfxError
from selfx.evaluation.statistics.intervals import check_same_examples, distinct, group_index
from selfx.evaluation.statistics.rows import Array, Metric, Rows

DRAWS = 9_999
"""Swaps at random; as many patterns or fewer are gone through one by one."""
_CHUNK = 2_000_000  # weights held in memory at once
_SAME = 1e-12  # differences closer than this are equal but for rounding


@dataclass(frozen=True)
class PairedTest:
    """What a test found.

    Attributes:
        difference: metric(a) - metric(b).
        p: how often chance alone gives a difference at least as large, either way.
        clusters: in how many clusters the two differ at all; nothing is learned from the others.
        exact: whether all swaps were counted.
    """

    difference: float
    p: float
    clusters: int
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """The p-value and what it rests on."""
        return {"p": self.p, "clusters": self.clusters, "exact": self.exact}


def swap_test(metric: Metric, a: Rows, b: Rows, *, draws: int = DRAWS, seed: int = 0) -> PairedTest:
    """Returns the test of metric(a) - metric(b) against 0, clusters swapped whole.

    Args:
        metric: any score of outcomes.
        a: of one explainer.
        b: of another on the same examples.
        draws: swaps at random, where not all can be counted.
        seed: of these.

    Raises:
        SelfxError: outcomes of different examples, or none.
    """
    check_same_examples(a, b)
    if not len(a) or draws < 1:
        raise SelfxError(f"{len(a)} examples and {draws} draws", expected="at least one of each")
    both, n = a.join(b), len(a)
    first, profile = distinct([both])
    rows, group = both.take(first), group_index(a.group, n)
    own, other = (_counts(group, part, len(first)) for part in (profile[:n], profile[n:]))
    moved = (own - other).tocsr()
    moved.eliminate_zeros()
    moved = moved[np.diff(moved.indptr) > 0]
    total = [np.asarray(part.sum(axis=0)).ravel() for part in (own, other)]

    def difference(swaps: Array) -> Array:
        taken = swaps @ moved
        return metric(rows, total[0] - taken) - metric(rows, total[1] + taken)

    clusters = moved.shape[0]
    exact = clusters <= math.log2(draws + 1)
    swaps = _all(clusters) if exact else _some(clusters, len(first), draws, seed)
    found = np.concatenate([difference(some) for some in swaps])
    real = float(difference(np.zeros((1, clusters)))[0])
    as_large = int((np.abs(found) >= abs(real) - _SAME).sum())
    p = as_large / len(found) if exact else (1 + as_large) / (1 + len(found))
    return PairedTest(real, p, clusters, exact)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Returns the exact two-sided p-value of McNemar's test: are as many right in `a` alone as in
    `b` alone?

    It takes examples for independent; where they come in clusters, `swap_test` is the test.

    Args:
        a: `[n]`, whether one explainer was right.
        b: `[n]`, whether the other was.
    """
    if len(a) != len(b):
        raise SelfxError(f"{len(a)} and {len(b)} answers", expected="two to each example")
    only = int((a & ~b).sum()), int((b & ~a).sum())
    tail = sum(math.comb(sum(only), k) for k in range(min(only) + 1))
    return min(1.0, 2 * tail / 2 ** sum(only))


def _counts(group: NDArray[np.intp], profile: NDArray[np.intp], kinds: int) -> Any:
    """Returns how many rows of each kind each cluster has, sparse `[g, k]`."""
    ones = np.ones(len(group))
    table = sparse.coo_array((ones, (group, profile)), shape=(int(group.max()) + 1, kinds))
    return table.tocsr()


def _all(clusters: int) -> Iterator[Array]:
    """Yields every pattern of swaps `[2**g, g]`."""
    patterns = np.arange(2**clusters)[:, None] >> np.arange(clusters)
    yield (patterns & 1).astype(np.float64)


def _some(clusters: int, kinds: int, draws: int, seed: int) -> Iterator[Array]:
    """Yields random patterns in chunks of `[r, g]`."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // max(clusters, kinds))
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        yield rng.integers(2, size=(rows, clusters)).astype(np.float64)
