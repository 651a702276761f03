"""Calibration of win probabilities: Brier score, log loss, calibration error, and temperature scaling.

Letters: `n` comparisons, `s` log-odds of chosen over rejected, `p` = sigmoid(s), `y` = P(chosen wins) in the data, 1 for a hard label.

Chosen comes first by convention only: with hard labels y is always 1, and a model that always predicts p = 1 would be perfect. So each
comparison must count in both orders, as (p, y) and as (1 - p, 1 - y). For a proper score S both are equal, S(p, y) = S(1 - p, 1 - y), and
the mean over n comparisons is the mean over 2n. In a reliability diagram the 2n points are symmetric about (1/2, 1/2), so the half with
p >= 1/2 is sufficient. There a comparison is the point

    confidence max(p, 1 - p)  and  outcome y if p > 1/2, 1 - y if p < 1/2, 1/2 if p = 1/2,

and the calibration error over these n points is that over all 2n, in mirrored bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrep.metrics.intervals import Interval, Ints, percentile_interval
from prefrep.metrics.winrate import win_probabilities

Floats = NDArray[np.float64]
Bins = NDArray[np.int16]

BLOCK = 1 << 14  # values that are computed together where all n would need memory of their own, and which fit into a cache


def blocks(n: int) -> Iterator[slice]:
    """Yield the parts of arrays [n] that are computed together."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def brier(log_odds: ArrayLike, outcomes: ArrayLike) -> Floats:
    """Return Brier scores, expected over the outcome: y (1 - p)^2 + (1 - y) p^2, [n]; 0 is best, 1/4 is that of p = 1/2."""
    p, y = win_probabilities(log_odds), np.asarray(outcomes, dtype=np.float64)
    return np.asarray(y * (1 - p) ** 2 + (1 - y) * p**2)


def log_loss(log_odds: ArrayLike, outcomes: ArrayLike) -> Floats:
    """Return negative log-likelihoods in nats, expected over the outcome: -y log p - (1 - y) log(1 - p), [n]; log 2 at p = 1/2."""
    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    return np.asarray(np.logaddexp(0.0, s) - y * s)


def each(score: Callable[[ArrayLike, ArrayLike], Floats], log_odds: ArrayLike, outcomes: ArrayLike) -> Floats:
    """Return `brier` or `log_loss` of many comparisons [n], without arrays [n] for what lies between."""
    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    found = np.empty(len(s))
    for part in blocks(len(s)):
        found[part] = score(s[part], y[part])
    return found


def folded(log_odds: ArrayLike, outcomes: ArrayLike) -> tuple[Floats, Floats]:
    """Return confidence [n] in [1/2, 1] and outcome [n] of each verdict, the sufficient half of the reliability diagram."""
    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    outcome = np.where(s < 0, 1 - y, y)
    outcome[s == 0] = 0.5
    return _confidence(s), outcome


def _confidence(s: Floats) -> Floats:
    found = np.abs(s)
    for part in blocks(len(s)):
        found[part] = win_probabilities(found[part])
    return found


def equal_mass(values: ArrayLike, bins: int) -> Bins:
    """Return the bin of each value [n], from 0: quantiles split the values, and equal values share a bin.

    Confidences cluster: of bins of equal width a few hold nearly all verdicts, and the noise in the others adds to the calibration error.
    Bins of equal mass are equally noisy and less biased (Roelofs et al., arXiv 2012.08668). At most 32767 bins.
    """
    values = np.asarray(values)
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins)) if len(values) else np.zeros(0)
    found, present = np.empty(len(values), np.int16), np.zeros(bins, bool)
    for part in blocks(len(values)):
        found[part] = np.searchsorted(edges, values[part], side="right")
        present[found[part]] = True
    numbers = np.cumsum(present, dtype=np.int16) - np.int16(1)  # without gaps
    for part in blocks(len(values)):
        found[part] = numbers[found[part]]
    return found


def calibration_error(confidence: Floats, outcome: Floats, bins: Bins) -> float:
    """Return the expected calibration error (Naeini et al., AAAI 2015): sum over bins of n_b / n |mean outcome - mean confidence|.

    Args:
        confidence: Confidence of each verdict [n].
        outcome: Outcome of each verdict [n].
        bins: Bin of each verdict [n], from `equal_mass`.
    """
    return _error(confidence, (outcome[part] for part in blocks(len(bins))), bins)


def _error(confidence: Floats, outcomes: Iterator[Floats | NDArray[np.bool_]], bins: Bins) -> float:
    """Return the calibration error of outcomes that come in blocks."""
    totals: Floats = np.zeros(int(bins.max()) + 1)
    first = np.arange(len(totals))
    for part, outcome in zip(blocks(len(bins)), outcomes, strict=True):
        # The totals go in before the differences: the order of a sum decides on its last bits, and is that of one sum over all.
        weights: Floats = np.concatenate([totals, confidence[part] - outcome])
        totals = np.asarray(np.bincount(np.concatenate([first, bins[part]]), weights), dtype=np.float64)
    return float(np.abs(totals).sum() / len(bins))


@dataclass(frozen=True, slots=True)
class Spread:
    """Bootstrap intervals of scores, and the calibration error of a calibrated model.

    Args:
        brier: 95 % interval of the Brier score.
        log_loss: 95 % interval of the log loss.
        calibrated_mean: Mean calibration error of a calibrated model with the same confidences in the same bins.
        calibrated_p95: Its 95th percentile; an error below is no evidence of miscalibration.
    """

    brier: Interval
    log_loss: Interval
    calibrated_mean: float
    calibrated_p95: float


def bootstrap(
    log_odds: ArrayLike, outcomes: ArrayLike, bins: Bins, draws: int, generator: np.random.Generator, groups: Ints | None = None
) -> Spread:
    """Resample comparisons for intervals of the scores, and draw outcomes of a calibrated model for the calibration error.

    The calibration error has no interval. It is a sum of absolute values, which noise alone makes positive, and a resample contains the
    noise twice: near 0, bootstrap intervals miss the true value. Instead it is compared with that of a calibrated model, whose verdicts
    with the same confidences in the same bins are right with these probabilities (as in the consistency bars of Broecker and Smith, Weather
    and Forecasting 22, 2007). Those verdicts are independent, even within groups, whose correlation is unknown.

    Args:
        log_odds: s, [n].
        outcomes: y, [n].
        bins: Bin of each comparison [n].
        draws: Number of resamples.
        generator: Random numbers.
        groups: Group of each comparison as an integer from 0 without gaps, [n]; groups are resampled, and means are over the comparisons
            in them (as in `intervals.bootstrap_means`). None: each comparison is a group.
    """
    sums, n = _sums(log_odds, outcomes, groups), len(bins)
    confidence = _confidence(np.asarray(log_odds, dtype=np.float64))
    found, calibrated = np.empty((draws, 2)), np.empty(draws)
    for draw in range(draws):
        score, loss, *size = _resampled(sums, generator)
        found[draw] = np.array([score, loss]) / (size or n)
        right = (generator.random(part.stop - part.start) < confidence[part] for part in blocks(n))
        calibrated[draw] = _error(confidence, right, bins)
    return Spread(
        percentile_interval(found[:, 0]),
        percentile_interval(found[:, 1]),
        float(calibrated.mean()),
        float(np.quantile(calibrated, 0.95)),
    )


def _sums(log_odds: ArrayLike, outcomes: ArrayLike, groups: Ints | None) -> list[Floats]:
    """Return of each group the sum of scores, the sum of losses and its size, each [G]; without groups scores and losses, each [n]."""
    columns = [each(score, log_odds, outcomes) for score in (brier, log_loss)]
    return columns if groups is None else [np.bincount(groups, column).astype(np.float64) for column in (*columns, None)]


def _resampled(sums: Sequence[Floats], generator: np.random.Generator) -> Floats:
    """Return the sum, [c], of as many rows as there are, drawn with replacement, of c columns [G]."""
    n = len(sums[0])
    held = np.zeros((min(BLOCK, n) + 1, len(sums)))  # the first row is the sum so far
    for part in blocks(n):
        drawn = generator.integers(0, n, part.stop - part.start)
        for place, column in enumerate(sums):
            held[1 : len(drawn) + 1, place] = np.take(column, drawn)
        held[0] = held[: len(drawn) + 1].sum(0)
    return np.asarray(held[0])


def fit_temperature(log_odds: ArrayLike, outcomes: ArrayLike, groups: Ints | None = None) -> tuple[float, Interval]:
    """Return the temperature T that minimises the mean log loss of s / T (Guo et al., arXiv 1706.04599, section 4.2), with a 95 % interval.

    In b = 1 / T the loss is convex, and b is the root of its slope, mean(s (sigmoid(b s) - y)). It does not depend on the order within
    comparisons, and scaling s scales T. The interval is that of an M-estimator on a logarithmic scale. Slopes within a group are
    correlated, so they are summed before they are squared (cluster-robust: Liang and Zeger, Biometrika 73, 1986): over G groups, var(b) = G
    / (G - 1) sum(slope of the group^2) / (n curvature)^2, the usual variance if each comparison is a group.

    Args:
        log_odds: s, [n], of held-out comparisons that no metric is reported on.
        outcomes: y, [n].
        groups: Group of each comparison (its prompt) as an integer from 0, [n]; None: each comparison is a group.

    Raises:
        ValueError: No positive, finite temperature is optimal: every verdict is right, or most are wrong. Or there is only one group, which
            has no variance.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    scale = float(np.abs(s).max()) if len(s) else 0.0
    if scale == 0:
        raise ValueError("every score is 0, so there is nothing to rescale")
    unit = s / scale
    count = len(s) if groups is None else len(np.unique(groups))
    if count < 2:
        raise ValueError("there is nothing beside one comparison, or one group of them, to tell how far its temperature holds")

    def slopes(b: float) -> Floats:
        return np.asarray(unit * (expit(b * unit) - y))

    if slopes(0.0).mean() >= 0:
        raise ValueError("the scores speak against the labels, so no positive temperature helps")
    if not (np.abs(s) * (1 - folded(s, y)[1])).any():  # the slope as b diverges
        raise ValueError("no verdict is wrong, so the smaller the temperature, the better")
    high = 1.0
    while slopes(high).mean() < 0:
        high *= 2
    b = float(brentq(lambda value: float(slopes(value).mean()), 0.0, high, xtol=1e-14, rtol=1e-14))
    p = expit(b * unit)
    curvature = float((unit**2 * p * (1 - p)).sum())
    together = slopes(b) if groups is None else np.bincount(groups, slopes(b))
    error = 1.96 * float(np.sqrt(count / (count - 1) * (together**2).sum())) / curvature / b
    temperature = scale / b
    return temperature, (temperature * float(np.exp(-error)), temperature * float(np.exp(error)))
