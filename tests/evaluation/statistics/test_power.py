import numpy as np
import pytest
from scipy import stats

from selfx.errors import SelfxError
from selfx.evaluation.statistics.intervals import paired_difference, paired_errors
from selfx.evaluation.statistics.power import smallest_difference, smallest_differences
from selfx.evaluation.statistics.rows import Numbers, mean_of

METRICS = {"score": mean_of("score")}


def numbers(values, group):
    return Numbers({"score": np.asarray(values, float)}, group)


def test_the_error_of_a_paired_difference_is_that_of_its_clusters():
    """Clusters of one size: the standard error of the mean of the clusters' differences."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 4)
    a, b = rng.normal(size=160) + np.repeat(rng.normal(size=40), 4), rng.normal(size=160)
    errors, groups = paired_errors(numbers(a, group), numbers(b, group), METRICS, resamples=6000)
    assert groups == 40
    expected = stats.sem((a - b).reshape(40, 4).mean(axis=1))
    assert errors["score"] == pytest.approx(expected, rel=0.04)


def test_many_clusters_need_two_point_eight_errors():
    assert smallest_difference(0.01, 100_000) == pytest.approx(0.02802, abs=1e-5)
    assert smallest_difference(0.01, 5) > 0.035
    assert smallest_difference(0.0, 50) is None
    with pytest.raises(SelfxError, match="shares between"):
        smallest_difference(0.1, 20, power=1.0)


def test_a_difference_of_that_size_is_seen_four_times_in_five():
    """Twice as large it is always seen, and none is seen in one case of twenty."""
    rng = np.random.default_rng(1)
    group, base = np.repeat(np.arange(40), 3), np.zeros(120)

    def noise():
        return np.repeat(rng.normal(size=40), 3) + rng.normal(size=120)

    wide = numbers(noise(), group)
    size = smallest_differences(wide, numbers(base, group), METRICS, resamples=400)["score"]
    expected = 2.87 * np.sqrt((1 + 1 / 3) / 40)  # t with 39 degrees of freedom, both reaches
    assert size == pytest.approx(expected, rel=0.2)
    for true, least, most in ((0, 0.0, 0.1), (expected, 0.72, 0.88), (2 * expected, 0.99, 1)):
        seen = 0
        for trial in range(150):
            found = paired_difference(
                METRICS["score"],
                numbers(noise() + true, group),
                numbers(base, group),
                resamples=300,
                seed=trial,
            )
            seen += not found["low"] <= 0 <= found["high"]
        assert least <= seen / 150 <= most
