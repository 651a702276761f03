"""Paired tests of two models on the same examples, with correction for multiple tests.

Each model is right or wrong on each example, and only examples on which they disagree are informative. Examples that are not independent,
such as comparisons on one prompt, form a group, which is then the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrep.metrics.intervals import Interval, Ints, bootstrap_means, percentile_interval

Floats = NDArray[np.float64]


class McNemar(NamedTuple):
    """McNemar's exact test.

    Args:
        first: Number of examples that only the first model gets right, or of groups of which it gets more right.
        second: The same for the second model.
        p: Two-sided p-value.
    """

    first: int
    second: int
    p: float


class Difference(NamedTuple):
    """Mean difference over examples.

    Args:
        mean: First minus second.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided p-value, from the share of resampled differences with the other sign.
    """

    mean: float
    low: float
    high: float
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike, groups: Ints | None = None) -> McNemar:
    """Test whether two models are right equally often (McNemar 1947, exact binomial form).

    If the models are equally good, each is right on half of the examples on which exactly one is right. A group counts once, for the model
    that is right on more of its examples: the sign test over groups.

    Args:
        first: Whether the first model is right, [n].
        second: Whether the second model is right, [n], on the same examples in the same order.
        groups: Group of each example as an integer from 0, [n]; None: each example is a group.

    Raises:
        ValueError: The lengths differ.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired tests need the same examples for both, got {a.shape} and {b.shape}")
    ahead = np.bincount(np.arange(len(a)) if groups is None else groups, a.astype(np.float64) - b)
    only_first, only_second = int((ahead > 0).sum()), int((ahead < 0).sum())
    disagree = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, disagree).pvalue) if disagree else 1.0)


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, draws: int, generator: np.random.Generator, groups: Ints | None = None
) -> Difference:
    """Return the difference of two means over the same examples, with a bootstrap interval (Efron 1979, percentile interval).

    Args:
        first: One value per example, [n]: right (1) or wrong (0), or the share of seeds that are right.
        second: The same for the other model, [n].
        draws: Number of resamples; no p-value is below 2 / (draws + 1).
        generator: Random numbers.
        groups: Group of each example as an integer from 0, [n]; groups are resampled. None: each example is a group.

    Raises:
        ValueError: The lengths differ, or there are no examples.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"a paired bootstrap needs the same examples for both, at least one, got {a.shape} and {b.shape}")
    differences = np.round(a - b, 12)  # 2/3 - 1/3 and 1/3 - 0 must be one distinct value
    found = bootstrap_means(differences, draws, generator, groups)
    # A mean of zero counts on both sides, and the sample counts as a draw, so the p-value is conservative.
    rare = min(int((found <= 1e-12).sum()), int((found >= -1e-12).sum()))
    low, high = percentile_interval(found)
    return Difference(float(differences.mean()), low, high, min(1.0, 2 * (rare + 1) / (draws + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values so that the family-wise error rate is that of a single test (Holm 1979).

    Args:
        p: P-values, [m], in any order.

    Returns:
        Corrected p-values in the same order.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)) if len(values) else values
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def t_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's 95 % interval for the mean of a few numbers, such as one per seed.

    The result is None for fewer than two numbers, or if all are equal: accuracies are counts, so equal ones show that the spread is below
    one count, not that it is zero, and an interval of zero width would be overconfident.

    Args:
        values: The numbers, [m].
    """
    from scipy.stats import t

    if len(values) < 2 or np.ptp(values) < 1e-12:  # 0.7 - 0.6 and 0.6 - 0.5 are equal
        return None
    mean, half = float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half
