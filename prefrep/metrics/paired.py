"""Do two models differ on the same examples? Paired tests, and the correction for asking many times.

Both models are right or wrong about each example, and only examples on which they disagree say anything. Examples that are not independent,
such as comparisons on one prompt, are given as a group, and the group is the unit.
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
        first: Examples that only the first model gets right, or groups of which it gets more right.
        second: The same for the second one.
        p: Two-sided p-value.
    """

    first: int
    second: int
    p: float


class Difference(NamedTuple):
    """A mean difference over examples.

    Args:
        mean: First minus second.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided p-value: how often a resampled difference has the other sign.
    """

    mean: float
    low: float
    high: float
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike, groups: Ints | None = None) -> McNemar:
    """Tests whether two models are right equally often (McNemar 1947, in its exact, binomial form).

    Of the examples on which exactly one model is right, each model has half, by chance, when they are equally good. A group of examples
    counts once, for the model that is right on more of them: the sign test over groups, of which this is the case of one example each.

    Args:
        first: Whether the first model is right, [n].
        second: Whether the second one is, [n], on the same examples in the same order.
        groups: A whole number from 0 for each example, equal within a group, [n]; None: each example by itself.

    Raises:
        ValueError: If the lengths differ.
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
    """The difference of two means over the same examples, which are resampled (Efron 1979, percentile interval).

    Args:
        first: A number per example, [n]: right (1) or wrong (0), or the share of seeds that are right.
        second: The same for the other model, [n].
        draws: Resamples; no p-value is smaller than 2 / (draws + 1).
        generator: Random numbers.
        groups: A whole number from 0 for each example, equal within a group, [n]: groups are resampled; None: each example by itself.

    Raises:
        ValueError: If the lengths differ or there is no example.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"a paired bootstrap needs the same examples for both, at least one, got {a.shape} and {b.shape}")
    differences = np.round(a - b, 12)  # 2/3 - 1/3 and 1/3 - 0 are one value to the multinomial
    found = bootstrap_means(differences, draws, generator, groups)
    # A mean of zero counts for both sides, and the sample itself is one of the draws: the p-value is never too small.
    rare = min(int((found <= 1e-12).sum()), int((found >= -1e-12).sum()))
    low, high = percentile_interval(found)
    return Difference(float(differences.mean()), low, high, min(1.0, 2 * (rare + 1) / (draws + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values of a family of tests so that any false alarm among them is as rare as in one test (Holm 1979).

    Args:
        p: P-values, [m], in any order.

    Returns:
        Corrected p-values in the same order: reject what is below the level.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)) if len(values) else values
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval for the mean of a few numbers, such as one per seed.

    None for fewer than two, or where all are equal: accuracies are counts, so that a tie says that their spread is finer than a count, and
    not that it is nothing. An interval without width would be sure of whatever it leaves out.

    Args:
        values: The numbers, [m].
    """
    from scipy.stats import t

    if len(values) < 2 or np.ptp(values) < 1e-12:  # 0.7 - 0.6 and 0.6 - 0.5 are equal
        return None
    mean, half = float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half
