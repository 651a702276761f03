"""Logistic regression without an intercept, for outcomes in [0, 1] of comparisons, with errors that hold within groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
STEPS, ENOUGH = 60, 1e-10


class Fitted(NamedTuple):
    """Coefficients and their covariance.

    Args:
        coefficients: In nats per unit, [F].
        covariance: Sandwich, groups independent, [F, F].
    """

    coefficients: Floats
    covariance: Floats


def fit(features: Floats, outcomes: Floats, groups: NDArray[np.integer], ridge: float = 1e-3) -> Fitted:
    """Return the coefficients that make the outcomes most probable.

    Outcomes between 0 and 1 (ties, probabilities) count as expected outcomes. The covariance is H^-1 G H^-1 with the scores summed within
    groups, times g / (g - 1) for g groups (Liang and Zeger 1986).

    Args:
        features: [N, F].
        outcomes: P(the first wins), [N].
        groups: Number of each row's group, [N].
        ridge: Precision of a prior at 0, which keeps coefficients finite where a feature decides everything.
    """
    count = features.shape[1]
    theta, penalty = np.zeros(count), ridge * np.eye(count)
    for _ in range(STEPS):
        p = expit(features @ theta)
        gradient = features.T @ (outcomes - p) - ridge * theta
        hessian = (features * (p * (1 - p))[:, None]).T @ features + penalty
        step = np.linalg.solve(hessian, gradient)
        theta = theta + step / max(1.0, float(np.abs(step).max()) / 4)
        if np.abs(step).max() < ENOUGH:
            break
    p = expit(features @ theta)
    inverse = np.linalg.inv((features * (p * (1 - p))[:, None]).T @ features + penalty)
    _, places = np.unique(groups, return_inverse=True)
    number = int(places.max(initial=-1)) + 1
    scores = np.zeros((number, count))
    np.add.at(scores, places, features * (outcomes - p)[:, None])
    spread = scores.T @ scores * (number / (number - 1) if number > 1 else np.nan)
    return Fitted(theta, inverse @ spread @ inverse)
