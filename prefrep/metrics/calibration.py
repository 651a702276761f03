"""Whether probabilities mean what they say: Brier score, log loss, calibration error, and the temperature that mends them.

Letters: `n` comparisons, `s` log-odds of chosen over rejected, `p` = sigmoid(s), `y` = P(chosen wins) by the data, 1 for a hard label.

Which answer is called chosen says nothing about the world: with hard labels y is 1 throughout, and a model that always answers "chosen, for
sure" would be perfect. So each comparison has to count in both orders, as (p, y) and as (1 - p, 1 - y). For a proper score S the two are
the same, S(p, y) = S(1 - p, 1 - y), and the mean over n comparisons is the mean over 2n. For a reliability diagram they are not: the 2n
points lie symmetrically about (1/2, 1/2), so the half with p >= 1/2 holds everything. There a comparison is the point

    confidence max(p, 1 - p)  and  outcome y if p > 1/2, 1 - y if p < 1/2, 1/2 if p = 1/2,

and the calibration error over these n points is that over all 2n, in bins that mirror each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrep.metrics.intervals import Interval, Ints, percentile_interval
from prefrep.metrics.winrate import win_probabilities

Floats = NDArray[np.float64]


def brier(log_odds: ArrayLike, outcomes: ArrayLike) -> Floats:
    """Brier scores, expected over the outcome: y (1 - p)^2 + (1 - y) p^2, [n]; 0 is best, 1/4 is a model that knows nothing."""
    p, y = win_probabilities(log_odds), np.asarray(outcomes, dtype=np.float64)
    return np.asarray(y * (1 - p) ** 2 + (1 - y) * p**2)


def log_loss(log_odds: ArrayLike, outcomes: ArrayLike) -> Floats:
    """Negative log-likelihoods in nats, expected over the outcome: -y log p - (1 - y) log(1 - p), [n]; log 2 knows nothing."""
    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    return np.asarray(np.logaddexp(0.0, s) - y * s)


def folded(log_odds: ArrayLike, outcomes: ArrayLike) -> tuple[Floats, Floats]:
    """Confidence [n] in [1/2, 1] and outcome [n] of each verdict: the half of the reliability diagram that holds both orders."""
    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    return win_probabilities(np.abs(s)), np.where(s > 0, y, np.where(s < 0, 1 - y, 0.5))


def equal_mass(values: ArrayLike, bins: int) -> Ints:
    """Bin of each value [n], counted from 0: quantiles split the values, and equal values share a bin.

    Confidences crowd: in bins of equal width a few would hold nearly all verdicts and the others only noise, which a calibration error
    takes for miscalibration. Bins of equal mass are all equally noisy and less biased (Roelofs et al., arXiv 2012.08668).
    """
    values = np.asarray(values, dtype=np.float64)
    edges = np.quantile(values, np.arange(1, bins) / bins) if len(values) else np.zeros(0)
    found = np.searchsorted(np.unique(edges), values, side="right")
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.int64)


def calibration_error(confidence: Floats, outcome: Floats, bins: Ints) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015): sum over bins of n_b / n |mean outcome - mean confidence|.

    Args:
        confidence: Of each verdict [n].
        outcome: Of each verdict [n].
        bins: Bin of each verdict [n], from `equal_mass`.
    """
    return float(np.abs(np.bincount(bins, confidence - outcome)).sum() / len(bins))


@dataclass(frozen=True, slots=True)
class Spread:
    """What resampling says about scores, and what the calibration error would be without any miscalibration.

    Args:
        brier: 95 % interval.
        log_loss: 95 % interval.
        calibrated_mean: Mean calibration error of a model that is calibrated and has the same confidences in the same bins.
        calibrated_p95: 95th percentile of it: an error below is no evidence of miscalibration.
    """

    brier: Interval
    log_loss: Interval
    calibrated_mean: float
    calibrated_p95: float


def bootstrap(
    log_odds: ArrayLike, outcomes: ArrayLike, bins: Ints, draws: int, generator: np.random.Generator, groups: Ints | None = None
) -> Spread:
    """Resamples comparisons for the scores; draws outcomes of a calibrated model for the calibration error.

    The calibration error has no interval. It is a sum of absolute values, which noise alone makes positive, and a resample has the noise
    twice: where the truth is near 0, intervals from resamples miss it. What tells noise from miscalibration is a test: the same confidences
    in the same bins, with verdicts that are right as often as they say (after the consistency bars of Broecker and Smith, Weather and
    Forecasting 22, 2007). Those verdicts are drawn independently, whatever the groups: nothing says how those of a group go together.

    Args:
        log_odds: s, [n].
        outcomes: y, [n].
        bins: Bin of each comparison [n].
        draws: Number of resamples.
        generator: Random numbers.
        groups: A whole number from 0 for each comparison, equal within a group, [n], none left out: groups are resampled whole, and means
            are over the comparisons in them (as in `intervals.bootstrap_means`). None: each comparison by itself.
    """
    confidence, n = folded(log_odds, outcomes)[0], len(bins)
    codes = np.arange(n) if groups is None else groups
    columns = (brier(log_odds, outcomes), log_loss(log_odds, outcomes), None)
    sums = np.stack([np.bincount(codes, column) for column in columns], axis=1)  # of each group: scores, losses, how many
    found, calibrated = np.empty((draws, 2)), np.empty(draws)
    for draw in range(draws):
        score, loss, count = sums[generator.integers(0, len(sums), len(sums))].sum(0)
        found[draw] = score / count, loss / count
        calibrated[draw] = calibration_error(confidence, (generator.random(n) < confidence).astype(np.float64), bins)
    return Spread(
        percentile_interval(found[:, 0]),
        percentile_interval(found[:, 1]),
        float(calibrated.mean()),
        float(np.quantile(calibrated, 0.95)),
    )


def fit_temperature(log_odds: ArrayLike, outcomes: ArrayLike, groups: Ints | None = None) -> tuple[float, Interval]:
    """The temperature T that minimises the mean log loss of s / T (Guo et al., arXiv 1706.04599, section 4.2), with its 95 % interval.

    With b = 1 / T the loss is convex, and b the root of its slope, mean(s (sigmoid(b s) - y)). The order of a comparison does not matter
    to it, and T s gives the same as s, times T. The interval is that of an M-estimator on a logarithmic scale. Slopes of a group go
    together, so they are summed before they are squared (cluster-robust: Liang and Zeger, Biometrika 73, 1986): over G groups,
    var(b) = G / (G - 1) sum(slope of the group^2) / (n curvature)^2, which is the usual one where each comparison is a group.

    Args:
        log_odds: s, [n]: of comparisons that nothing is reported of.
        outcomes: y, [n].
        groups: A whole number from 0 for each comparison, equal within a group (those of one prompt), [n]; None: each by itself.

    Raises:
        ValueError: No positive, finite temperature is best: every verdict is right, or they are wrong more than right. Or there is one
            group, which says nothing about others.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    s, y = np.asarray(log_odds, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    scale = float(np.abs(s).max()) if len(s) else 0.0
    if scale == 0:
        raise ValueError("every score is 0, so there is nothing to rescale")
    unit = s / scale
    codes = np.arange(len(s)) if groups is None else groups
    count = len(np.unique(codes))
    if count < 2:
        raise ValueError("there is nothing beside one comparison, or one group of them, to tell how far its temperature holds")

    def slopes(b: float) -> Floats:
        return np.asarray(unit * (expit(b * unit) - y))

    if slopes(0.0).mean() >= 0:
        raise ValueError("the scores speak against the labels, so no positive temperature helps")
    if not (np.abs(s) * (1 - folded(s, y)[1])).any():  # the slope where b is without bound
        raise ValueError("no verdict is wrong, so the smaller the temperature, the better")
    high = 1.0
    while slopes(high).mean() < 0:
        high *= 2
    b = float(brentq(lambda value: float(slopes(value).mean()), 0.0, high, xtol=1e-14, rtol=1e-14))
    p = expit(b * unit)
    curvature = float((unit**2 * p * (1 - p)).sum())
    together = np.bincount(codes, slopes(b))
    error = 1.96 * float(np.sqrt(count / (count - 1) * (together**2).sum())) / curvature / b
    temperature = scale / b
    return temperature, (temperature * float(np.exp(-error)), temperature * float(np.exp(error)))
