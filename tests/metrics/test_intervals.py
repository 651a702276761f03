"""Intervals against textbook formulas and against scipy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, bootstrap

from prefrep.metrics import intervals


def test_wilson_by_formula() -> None:
    wins, n, z = 45, 60, 1.959963984540054
    p = wins / n
    centre, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = intervals.accuracy_interval(wins, n)
    assert (low, high) == pytest.approx(((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)), abs=1e-10)


def test_exact_by_beta_quantiles() -> None:
    low, high = intervals.accuracy_interval(45, 60, method="exact")
    assert (low, high) == pytest.approx((beta.ppf(0.025, 45, 16), beta.ppf(0.975, 46, 15)), abs=1e-10)


def test_edges_of_an_accuracy() -> None:
    assert intervals.accuracy_interval(0, 0) == (0.0, 1.0)
    low, high = intervals.accuracy_interval(10, 10)
    assert low < 0.75 and high == 1.0  # the bootstrap would give [1, 1]
    with pytest.raises(ValueError, match="11 wins of 10"):
        intervals.accuracy_interval(11, 10)


def test_multinomial_draws_are_the_bootstrap() -> None:
    values = np.array([0.0] * 30 + [0.25] * 20 + [1.0] * 50)
    draws = intervals.bootstrap_means(values, 40_000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert draws.std() == pytest.approx(values.std() / math.sqrt(len(values)), rel=0.02)
    theirs = bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert intervals.percentile_interval(draws) == pytest.approx((theirs.low, theirs.high), abs=6e-3)


def test_percentiles() -> None:
    assert intervals.percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_streams_depend_on_seed_and_name_only() -> None:
    def draw(seed: int, name: str) -> list[float]:
        return intervals.bootstrap_means(np.array([0.0, 1.0, 1.0]), 20, intervals.stream(seed, name)).tolist()

    assert draw(0, "math-prm") == draw(0, "math-prm")
    assert draw(0, "math-prm") != draw(0, "hep-go")
    assert draw(0, "math-prm") != draw(1, "math-prm")


def test_indices_are_rows_of_samples() -> None:
    found = intervals.bootstrap_indices(3, 500, np.random.default_rng(0))
    assert found.shape == (500, 3) and set(found.ravel()) == {0, 1, 2}


def test_harmonic_mean_of_two_accuracies() -> None:
    """F1 by hand; with the second accuracy exact in the limit, the interval is that of one accuracy scaled by its gradient."""
    mean, (low, high) = intervals.harmonic_mean([(30, 40), (20, 40)])  # 2 * 0.75 * 0.5 / 1.25
    assert mean == pytest.approx(0.6) and low < mean < high
    assert intervals.harmonic_mean([(0, 5), (5, 5)])[0] == 0 == intervals.harmonic_mean([(0, 5), (0, 5)])[0]
    assert intervals.harmonic_mean([(5, 5), (5, 5)])[1][0] < 0.8, "the bootstrap would give [1, 1]"
    a, b, n = 0.75, 0.5, 10**12
    mean, ends = intervals.harmonic_mean([(45, 60), (n // 2, n)])
    gradient = 2 * b**2 / (a + b) ** 2
    expected = [mean + gradient * (end - a) for end in intervals.accuracy_interval(45, 60)]
    assert ends == pytest.approx(expected, abs=1e-5)


def test_the_interval_of_a_harmonic_mean_covers() -> None:
    """In about 95 % of draws: between 93 and 97 % of 1000, three standard errors and more."""
    draw = np.random.default_rng(0)
    for p, q, n, m in ((0.7, 0.5, 60, 60), (0.9, 0.3, 40, 80)):
        found = [intervals.harmonic_mean([(draw.binomial(n, p), n), (draw.binomial(m, q), m)])[1] for _ in range(1000)]
        covered = np.mean([low <= 2 * p * q / (p + q) <= high for low, high in found])
        assert 0.93 < covered < 0.97
