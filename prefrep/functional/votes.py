"""Tables made of verdicts: votes on pairs, and majorities over aspects that each response is rated on.

Letters: `K` responses, `A` aspects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def vote_margins(wins: Counts, ties: Counts) -> Floats:
    """The margin of i over j among their votes, (wins - losses) / votes, ties included in the votes; 0 without any.

    Args:
        wins: [.., K, K], entry [i, j] is how often i beat j.
        ties: [.., K, K], symmetric.

    Returns:
        [.., K, K] in [-1, 1], skew-symmetric.
    """
    lost = np.swapaxes(wins, -1, -2)
    return np.asarray((wins - lost) / np.maximum(wins + lost + ties, 1))


def majority(ratings: Floats) -> Floats:
    """The margin of i over j among the aspects, each of which votes for the response that it rates higher (equal: half each).

    The vote over aspects is Condorcet's: single aspects are orders, their majority can be a cycle.

    Args:
        ratings: [.., A, K], all known.

    Returns:
        [.., K, K] in [-1, 1], skew-symmetric.
    """
    return np.asarray(np.sign(ratings[..., :, None] - ratings[..., None, :]).mean(-3))
