"""One number per response from a table of log-odds: how a response does against the others of its group.

Letters: `K` responses to a prompt. s is a table of log-odds in nats, [K, K], skew-symmetric.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_log_odds(table: NDArray[Any]) -> Floats:
    """Return the mean log-odds of each response against the others, [K, K] -> [K]; a single response has 0.

    The mean leaves out the response itself, unlike the row mean of GPO (eq. 5.2 of arXiv:2410.02197), which is (K - 1) / K of it. Means
    over different group sizes are therefore comparable.
    """
    return np.asarray(np.asarray(table, np.float64).sum(1) / max(len(table) - 1, 1))


def win_probabilities(table: NDArray[Any]) -> Floats:
    """Return the mean probability of each response to beat another one, [K, K] -> [K]; a single response has 1/2."""
    s = np.asarray(table, np.float64)
    if len(s) == 1:
        return np.array([0.5])
    wins = probabilities(s)
    return np.asarray((wins.sum(1) - np.diagonal(wins)) / (len(s) - 1))


def probabilities(log_odds: NDArray[Any]) -> Floats:
    """Return sigmoid(s), which does not overflow."""
    return np.asarray((1 + np.tanh(np.asarray(log_odds, np.float64) / 2)) / 2)
