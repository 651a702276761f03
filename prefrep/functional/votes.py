"""Tables of margins from votes on pairs, and from majorities over rated aspects.

Letters: `K` responses, `A` aspects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def vote_margins(wins: Counts, ties: Counts) -> Floats:
    """Return the margin of i over j among their votes, (wins - losses) / votes, where ties count as votes; 0 without votes.

    Args:
        wins: [.., K, K], entry [i, j] is how often i beat j.
        ties: [.., K, K], symmetric.

    Returns:
        [.., K, K] in [-1, 1], skew-symmetric.
    """
    lost = np.swapaxes(wins, -1, -2)
    return np.asarray((wins - lost) / np.maximum(wins + lost + ties, 1))


def majority(ratings: Floats) -> Floats:
    """Return the margin of i over j among the aspects, each of which votes for the response with the higher rating (tie: half each).

    Each aspect is an order, but their majority can be a cycle (Condorcet).

    Args:
        ratings: [.., A, K], none missing.

    Returns:
        [.., K, K] in [-1, 1], skew-symmetric.
    """
    return np.asarray(np.sign(ratings[..., :, None] - ratings[..., None, :]).mean(-3))
