"""Which comparisons to ask next, so that votes are spent where ratings are least known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.groups import probabilities

Floats = NDArray[np.float64]

_LEAST = 1e-12  # nats of information


def next_pairs(ratings: Floats, spread: Floats, count: int) -> list[tuple[int, int, float]]:
    """Return the pairs whose verdict is expected to tell most about the ratings, one after the other.

    A verdict on i and j adds p (1 - p) d d' to the precision of the ratings, d = e_i - e_j, and so log(1 + p (1 - p) d' V d) / 2 nats of
    information, with V their covariance (D-optimal design). What counts of these is the chance that the order of the two is wrong,
    Phi(-|r_i - r_j| / sqrt(d' V d)), since ranks are what a leaderboard tells: without that factor, pairs whose order is long known are
    asked again and again. The choice is greedy, each pair as if those before it had been asked. The order of the two alternates by
    rating, so that order effects cancel.

    Args:
        ratings: r, [K], nats.
        spread: Covariance V, [K, K].
        count: Number of pairs; a pair can come up several times.

    Returns:
        (left, right, gain in nats) of each.
    """
    from scipy.special import ndtr

    size = len(ratings)
    upper = np.triu(np.ones((size, size), dtype=bool), 1)
    p = probabilities(ratings[:, None] - ratings)
    room, gap = p * (1 - p), np.abs(ratings[:, None] - ratings)
    covariance = np.array(spread, dtype=np.float64)
    found: list[tuple[int, int, float]] = []
    for number in range(count):
        variance = np.diag(covariance)[:, None] + np.diag(covariance) - 2 * covariance
        gain = np.where(upper, room * variance, 0.0)
        wrong = ndtr(-gap / np.sqrt(np.maximum(variance, _LEAST)))
        i, j = divmod(int((np.log1p(gain) * wrong).argmax()), size)
        nats = float(np.log1p(gain[i, j]) / 2)
        if nats < _LEAST:
            break
        along = covariance[:, i] - covariance[:, j]
        covariance -= np.outer(along, along) * (room[i, j] / (1 + gain[i, j]))
        better, worse = (i, j) if ratings[i] >= ratings[j] else (j, i)
        found.append((better, worse, nats) if number % 2 == 0 else (worse, better, nats))
    return found
