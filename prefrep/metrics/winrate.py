"""Win rates from log-odds, and length-controlled win rates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrep.metrics.intervals import bootstrap_indices

Floats = NDArray[np.float64]
# Ridge penalty on the length weight. It matters only if length alone separates all comparisons and the weight would diverge.
RIDGE = 0.01


def win_probabilities(log_odds: ArrayLike) -> Floats:
    """Return P(win) of log-odds [n]."""
    from scipy.special import expit

    return np.asarray(expit(np.asarray(log_odds, dtype=np.float64)))


def length_feature(lengths: ArrayLike, other: ArrayLike) -> Floats:
    """Return tanh((l - l') / std(l - l')) of the response lengths [n] of two models; zeros if all differences are equal."""
    difference = np.asarray(lengths, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def length_controlled_minimal(preferences: ArrayLike, feature: ArrayLike) -> float:
    """Return the length-controlled win rate that AlpacaEval calls `length_controlled_minimal` (Dubois et al., arXiv 2404.04475).

    A logistic regression fits P(win) = sigmoid(theta + w x) with x from `length_feature`; at equal lengths x is 0, so the result is
    sigmoid(theta). It is not the number of AlpacaEval's leaderboard, `length_controlled_v1`, which adds

    * the difficulty of each instruction times a weight of the model, from a joint fit over the models of the leaderboard. Two models cannot
      separate difficulty from quality;
    * annotations of lengthened and shortened outputs of its baseline, with weight 0.2, which exist for that baseline only.

    Both files are with AlpacaEval's data set on the hub, not in its repository. On 59 of its published annotation files, this number lies
    0.063 above the leaderboard's on average and 0.272 at most, and orders models less well than the raw win rate does (Spearman 0.929
    against 0.960).

    AlpacaEval also has an L1 penalty on all weights, chosen by cross-validation. Here theta is free and w has a weak ridge, `RIDGE` w^2 / 2
    against the summed log loss, so the result is the raw win rate if lengths are uninformative.

    Args:
        preferences: P(win) of each comparison [n], or 0, 1/2 and 1.
        feature: Length feature x of each comparison [n].

    Returns:
        The win rate in [0, 1].

    Raises:
        ValueError: There are no preferences, or one is outside [0, 1].
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    p, x = np.asarray(preferences, dtype=np.float64), np.asarray(feature, dtype=np.float64)
    if not len(p) or p.min() < 0 or p.max() > 1:
        raise ValueError("preferences must be numbers between 0 and 1, and at least one")
    if not x.any() or p.min() == p.max() in (0.0, 1.0):  # theta alone fits best, and diverges if all are won or lost
        return float(p.mean())
    design = np.stack([np.ones_like(x), x], axis=1)
    ridge = np.diag([0.0, RIDGE])

    def loss(weights: Floats) -> float:
        z = design @ weights
        return float((np.logaddexp(0.0, z) - p * z).sum() + weights @ ridge @ weights / 2)

    def gradient(weights: Floats) -> Floats:
        return np.asarray(design.T @ (expit(design @ weights) - p) + ridge @ weights)

    def hessian(weights: Floats) -> Floats:
        q = expit(design @ weights)
        return np.asarray(design.T @ (design * (q * (1 - q))[:, None]) + ridge)

    found = minimize(loss, np.zeros(2), method="trust-exact", jac=gradient, hess=hessian, options={"gtol": 1e-9 * len(p)})
    return float(expit(found.x[0]))


def is_extreme_change(raw: float, controlled: float) -> bool:
    """Return whether AlpacaEval would warn that the regression may have failed: its alarm in `glm_winrate.py`.

    That is where the length-controlled win rate is more than 0.1 and more than a quarter of the raw win rate below it, or more than 0.1 and
    more than a quarter of the way to 1 above it.

    Args:
        raw: Win rate in [0, 1].
        controlled: Length-controlled win rate in [0, 1].
    """
    return controlled < min(raw - raw / 4, raw - 0.1) or controlled > max(raw + (1 - raw) / 4, raw + 0.1)


def bootstrap_length_controlled(preferences: ArrayLike, feature: ArrayLike, draws: int, generator: np.random.Generator) -> Floats:
    """Return length-controlled win rates of resamples [draws]; the length feature keeps the scale of the whole sample."""
    p, x = np.asarray(preferences, dtype=np.float64), np.asarray(feature, dtype=np.float64)
    return np.array([length_controlled_minimal(p[rows], x[rows]) for rows in bootstrap_indices(len(p), draws, generator)])
