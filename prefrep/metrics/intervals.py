"""95 % confidence intervals: binomial ones for proportions, bootstrap ones for statistics built from them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]


def accuracy_interval(wins: int, n: int, level: float = 0.95, method: Literal["wilson", "exact"] = "wilson") -> Interval:
    """Return the confidence interval of an accuracy.

    Args:
        wins: Number of successes.
        n: Number of trials; for 0 the interval is [0, 1].
        level: Confidence level.
        method: `wilson` (score interval) or `exact` (Clopper-Pearson, whose coverage is at least `level`).

    Raises:
        ValueError: wins is not between 0 and n.

    Example:
        >>> low, high = accuracy_interval(62, 82)
        >>> round(low, 3), round(high, 3)
        (0.653, 0.836)
    """
    from scipy.stats import binomtest

    if not 0 <= wins <= n:
        raise ValueError(f"{wins} wins of {n}")
    if n == 0:
        return 0.0, 1.0
    found = binomtest(int(wins), int(n)).proportion_ci(level, method)
    return float(found.low), float(found.high)


def percentile_interval(draws: Floats, level: float = 0.95) -> Interval:
    """Return the central interval of bootstrap draws [B] that holds the share `level`."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def harmonic_mean(shares: Sequence[tuple[int, int]], level: float = 0.95) -> tuple[float, Interval]:
    """Return the harmonic mean of two independent accuracies, such as the F1 of ProcessBench (arXiv:2412.06559), and its interval.

    The interval recovers variances from Wilson's (MOVER; Zou and Donner 2008), weighted by the gradient, 2 b^2 / (a + b)^2 for a.

    Args:
        shares: (successes, trials) of both.
        level: Confidence level.

    Example:
        >>> harmonic_mean([(30, 40), (20, 40)])[0]
        0.6
    """
    (a, b), ends = (np.array([wins / n for wins, n in shares]), np.array([accuracy_interval(wins, n, level) for wins, n in shares]))
    total = a + b
    weights = np.array([0.5, 0.5]) if not total else 2 * np.array([b, a]) ** 2 / total**2
    mean = 2 * a * b / total if total else 0.0
    down, up = (float(np.hypot(*(weights * (ends[:, side] - [a, b])))) for side in (0, 1))
    return float(mean), (max(0.0, float(mean) - down), min(1.0, float(mean) + up))


def stream(seed: int, name: str) -> np.random.Generator:
    """Return a random generator for one group of samples, independent of other groups and of their order."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def bootstrap_means(values: Floats, draws: int, generator: np.random.Generator, groups: Ints | None = None) -> Floats:
    """Return means of resamples of `values` with replacement, [draws].

    A mean depends only on how often each distinct value occurs, and these counts are multinomial. This is the nonparametric bootstrap,
    without n x draws random indices (accuracies have two distinct values).

    Args:
        values: The values, [n].
        draws: Number of resamples.
        generator: Random numbers.
        groups: Group of each value as an integer from 0, [n], for values that are not independent, such as those of one prompt. Groups are
            resampled, and the mean is over the values in them (cluster bootstrap; Davison and Hinkley 1997, section 3.8). None: each value
            is a group.
    """
    values = np.asarray(values, dtype=np.float64)
    codes = np.arange(len(values)) if groups is None else groups
    sums, sizes = np.bincount(codes, values), np.bincount(codes)
    distinct, counts = np.unique(np.stack([sums, sizes], axis=1)[sizes > 0], axis=0, return_counts=True)
    drawn = generator.multinomial(int(counts.sum()), counts / counts.sum(), size=draws)
    return np.asarray((drawn @ distinct[:, 0]) / (drawn @ distinct[:, 1]), dtype=np.float64)


def bootstrap_indices(n: int, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return indices of resamples of n samples, [draws, n], for statistics other than means."""
    return generator.integers(0, n, size=(draws, n))
