"""Sets of best systems, for verdicts that may run in circles, and what the battles can compare at all.

A pair that was never compared is unknown: it may go either way. So membership has two answers: possible (for some outcome of the unknown
pairs) and certain (for all). Letters: `K` systems. `beats[i, j]`: i beats or ties j, among compared pairs; `known[i, j]`: compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.int64]


class Members(NamedTuple):
    """Membership, each [K].

    Attributes:
        possible: For some outcome of the pairs that were not compared.
        certain: For all of them; equal to `possible` where all pairs were compared.
    """

    possible: Bools
    certain: Bools


def top_cycle(margins: Floats, known: Bools) -> Members:
    """Return the top cycle (Smith set): the smallest set whose members beat all others; ties count for both sides.

    A system is in it if and only if it reaches all others over pairs that it, and those that it reached, do not lose.

    Args:
        margins: Skew-symmetric, [K, K]; positive: the first one wins.
        known: Whether a pair was compared, [K, K], symmetric.

    Example:
        >>> cycle = np.array([[0, 1, -1, 1], [-1, 0, 1, 1], [1, -1, 0, 1], [-1, -1, -1, 0]], dtype=float)
        >>> top_cycle(cycle, ~np.eye(4, dtype=bool)).certain.tolist()
        [True, True, True, False]
    """
    arcs = (margins >= 0) & known
    return Members(np.asarray(_reach(arcs | ~known).all(1)), np.asarray(_reach(arcs).all(1)))


def uncovered(margins: Floats, known: Bools) -> Members:
    """Return the uncovered set: systems that reach every other one in one or two steps over pairs that are not lost (Miller, 1980).

    Args:
        margins: Skew-symmetric, [K, K]; positive: the first one wins.
        known: Whether a pair was compared, [K, K], symmetric.
    """
    size = len(margins)
    arcs, open_pairs = (margins >= 0) & known, ~known & ~np.eye(size, dtype=bool)
    arcs &= ~np.eye(size, dtype=bool)
    # In the best case for i, its own unknown pairs are wins and so are all unknown second steps; in the worst case none is.
    hoped = arcs | open_pairs
    best = hoped | ((hoped.astype(np.float64) @ hoped) > 0)
    worst = arcs | ((arcs.astype(np.float64) @ arcs) > 0)
    own = np.eye(size, dtype=bool)
    return Members(np.asarray((best | own).all(1)), np.asarray((worst | own).all(1)))


def _reach(arcs: Bools) -> Bools:
    reach = arcs | np.eye(len(arcs), dtype=bool)
    while True:
        further = (reach.astype(np.float32) @ reach) > 0
        if (further == reach).all():
            return reach
        reach = further


class Comparable(NamedTuple):
    """What battles can compare.

    Attributes:
        component: Number of the group of systems that are connected by battles, [K]; there is one if all can be compared.
        unbounded: Whether a system has no finite rating of its own: it, or a set around it, never lost or never won against the rest, [K].
    """

    component: Codes
    unbounded: Bools


def comparable(won: Floats) -> Comparable:
    """Return which systems battles compare. Maximum likelihood is finite where every system reaches every other one over wins (Ford, 1957).

    Args:
        won: Wins of i over j, where a tie is half a win of each, [K, K].
    """
    from scipy.sparse.csgraph import connected_components

    arcs = won > 0
    _, component = connected_components(arcs | arcs.T, directed=False)
    _, strong = connected_components(arcs, directed=True, connection="strong")
    sizes = np.bincount(strong)
    main = np.zeros(len(won), dtype=bool)
    for part in np.unique(component):
        mine = component == part
        main |= mine & (strong == np.unique(strong[mine])[np.argmax(sizes[np.unique(strong[mine])])])
    alone = np.bincount(component)[component] == 1
    return Comparable(component.astype(np.int64), ~main & ~alone)
