"""Rankings of K responses by a table of margins, and their agreement: under transitive preferences all of them agree.

A margin m_ij = P(i beats j) - P(j beats i) lies in [-1, 1]; m is skew-symmetric. Pairs that were not compared have a margin of 0.
Letters: `K` responses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EQUAL = 1e-9  # scores that differ by less are tied


def margins(log_odds: Floats) -> Floats:
    """Return the margins of log-odds, 2 sigmoid(s) - 1 = tanh(s / 2)."""
    half: Floats = np.asarray(log_odds, dtype=np.float64) / 2
    return np.asarray(np.tanh(half), dtype=np.float64)


def copeland(margins: Floats) -> Floats:
    """Return the number of wins minus losses against the others: [K, K] -> [K]."""
    return np.asarray(np.sign(margins).sum(1))


def borda(margins: Floats) -> Floats:
    """Return the mean margin against the others, twice the mean win rate minus 1: [K, K] -> [K]."""
    return np.asarray(margins.sum(1) / max(len(margins) - 1, 1))


def maximin(margins: Floats) -> Floats:
    """Return the margin against the strongest opponent (Simpson-Kramer): [K, K] -> [K]. Only that of a Condorcet winner is positive."""
    others = np.where(np.eye(len(margins), dtype=bool), np.inf, margins)
    return np.asarray(others.min(1)) if len(margins) > 1 else np.zeros(1)


def maximal_lottery(margins: Floats) -> Floats:
    """Return the von Neumann winner: a distribution to which no response is preferred, [K, K] -> [K].

    It is an optimal strategy of the symmetric zero-sum game with payoff m (Fishburn, Review of Economic Studies 51, 1984; Dudik et al.,
    arXiv:1502.06362): p >= 0, sum p = 1, p m >= 0, which always exists. A Condorcet winner has p = 1. With ties there can be several
    optimal strategies, of which one is returned.

    Example:
        >>> maximal_lottery(np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])).round(3).tolist()
        [0.333, 0.333, 0.333]
    """
    from scipy.optimize import linprog

    size = len(margins)
    # The value v of a symmetric game is 0, but maximising it keeps rounding from making the linear program infeasible.
    found = linprog(
        np.r_[np.zeros(size), -1.0],
        A_ub=np.c_[-margins.T, np.ones(size)],
        b_ub=np.zeros(size),
        A_eq=np.r_[np.ones(size), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * size + [(None, None)],
    )
    p = np.maximum(np.asarray(found.x)[:size], 0.0)
    return np.asarray(p / p.sum(), dtype=np.float64)


RULES = {"copeland": copeland, "borda": borda, "maximin": maximin, "von_neumann": maximal_lottery}


def winners(scores: Floats) -> frozenset[int]:
    """Return the responses with the highest score, including ties."""
    return frozenset(int(i) for i in np.flatnonzero(scores >= scores.max() - _EQUAL))


def kendall_tau(a: Floats, b: Floats) -> float:
    """Return Kendall's tau-b of two rankings of the same responses, with ties; NaN if one of them ties all.

    Args:
        a: Scores, [K].
        b: Scores, [K].

    Example:
        >>> kendall_tau(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]))
        -1.0
    """
    x, y = (np.sign(np.where(np.abs(d) < _EQUAL, 0.0, d)) for d in (np.subtract.outer(s, s) for s in (a, b)))
    ranked = np.square(x).sum() * np.square(y).sum()
    return float((x * y).sum() / np.sqrt(ranked)) if ranked else float("nan")
