"""Rankings of K responses by a table of margins, and how far they agree: where preferences are transitive, all of them do.

A margin m_ij = P(i beats j) - P(j beats i) lies in [-1, 1]; m is skew-symmetric. Pairs that were not compared have a margin of 0.
Letters: `K` responses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EQUAL = 1e-9  # scores of one ranking that differ by less are a tie


def margins(log_odds: Floats) -> Floats:
    """Margins of log-odds: 2 sigmoid(s) - 1 = tanh(s / 2)."""
    half: Floats = np.asarray(log_odds, dtype=np.float64) / 2
    return np.asarray(np.tanh(half), dtype=np.float64)


def copeland(margins: Floats) -> Floats:
    """Responses beaten less responses lost to: [K, K] -> [K]."""
    return np.asarray(np.sign(margins).sum(1))


def borda(margins: Floats) -> Floats:
    """Mean margin against the others, twice the mean win rate less 1: [K, K] -> [K]."""
    return np.asarray(margins.sum(1) / max(len(margins) - 1, 1))


def maximin(margins: Floats) -> Floats:
    """The margin against the strongest opponent (minimax, Simpson and Kramer): [K, K] -> [K]. Positive only for a Condorcet winner."""
    others = np.where(np.eye(len(margins), dtype=bool), np.inf, margins)
    return np.asarray(others.min(1)) if len(margins) > 1 else np.zeros(1)


def maximal_lottery(margins: Floats) -> Floats:
    """The von Neumann winner: probabilities of the responses such that no response is preferred to a draw from them, [K, K] -> [K].

    An optimal strategy of the symmetric zero-sum game with payoff m (Fishburn, Review of Economic Studies 51, 1984; Dudik et al.,
    arXiv:1502.06362): p >= 0, sum p = 1, p m >= 0, which exists always. A Condorcet winner gets all of p. Ties can allow several: one of
    them is returned.
    """
    from scipy.optimize import linprog

    size = len(margins)
    # The value v of a symmetric game is 0; maximising it, rather than stating it, keeps rounding from making the programme infeasible.
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
    """The responses with the highest score, ties included."""
    return frozenset(int(i) for i in np.flatnonzero(scores >= scores.max() - _EQUAL))


def kendall_tau(a: Floats, b: Floats) -> float:
    """Kendall's tau-b of two rankings of the same responses, with ties; NaN where one of them ties all.

    Args:
        a: Scores, [K].
        b: Scores, [K].
    """
    x, y = (np.sign(np.where(np.abs(d) < _EQUAL, 0.0, d)) for d in (np.subtract.outer(s, s) for s in (a, b)))
    ranked = np.square(x).sum() * np.square(y).sum()
    return float((x * y).sum() / np.sqrt(ranked)) if ranked else float("nan")
