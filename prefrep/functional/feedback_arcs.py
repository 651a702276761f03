"""The minimum feedback arc set of a table: the least that has to be ignored before the verdicts form an order.

An arc i -> j of weight w_ij >= 0 says that i beats j. An order of the responses ignores the arcs that point from a worse place to a better
one; the best order ignores least (Kemeny's rule, Slater's for unit weights). Letters: `K` responses.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT = 14  # the largest K for which 2^K subsets are visited
_CELLS = 1 << 23  # numbers held at a time, 64 MB


class FeedbackArcs(NamedTuple):
    """What the best order found ignores.

    Attributes:
        weight: Weight of the arcs that it ignores: the minimum up to K = EXACT, an upper bound of it beyond.
        lower: No order ignores less; equals `weight` where that is known to be the minimum.
        order: The responses, best first.
    """

    weight: float
    lower: float
    order: tuple[int, ...]


def minimum_weights(arcs: Floats) -> Floats:
    """The weight of the minimum feedback arc set of many tables, exactly.

    Dynamic programming over subsets: the cheapest order of a subset S ends in some v, at the cost of v's arcs into S without v. It takes
    2^K K steps a table.

    Args:
        arcs: w, [B, K, K], none negative, K <= EXACT.

    Returns:
        [B].

    Raises:
        ValueError: K is larger.
    """
    size = arcs.shape[-1]
    if size > EXACT:
        raise ValueError(f"minimum_weights visits 2^K subsets and stops at K = {EXACT}, got {size}")
    step = max(1, _CELLS // ((size + 1) << size))
    parts = [_subset_costs(arcs[i : i + step])[0][:, -1] for i in range(0, len(arcs), step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def minimum(arcs: Floats) -> FeedbackArcs:
    """The minimum feedback arc set of one table.

    Up to K = EXACT it is exact. Beyond, `weight` is what the best of several local optima ignores: orders by net weight won and by wins,
    from which single responses are moved for as long as that helps. `lower` packs cyclic triples: each needs one arc removed, and no
    weight is spent twice.

    Args:
        arcs: w, [K, K], none negative.
    """
    size = len(arcs)
    if size > EXACT:
        net, wins = (arcs - arcs.T).sum(1), (arcs > arcs.T).sum(1) - (arcs < arcs.T).sum(1)
        found = [_improved(arcs, [int(i) for i in np.argsort(-start, kind="stable")]) for start in (net, wins)]
        order = min(found, key=lambda each: _ignored(arcs, each))
        weight = _ignored(arcs, order)
        lower = _packed(arcs)
        return FeedbackArcs(weight, weight if np.isclose(lower, weight, rtol=1e-12) else lower, tuple(order))
    costs, into = _subset_costs(arcs[None])
    subset, backwards = (1 << size) - 1, []
    while subset:
        ends = [v for v in range(size) if subset >> v & 1]
        last = min(ends, key=lambda v: costs[0, subset ^ 1 << v] + into[0, v, subset ^ 1 << v])
        backwards.append(last)
        subset ^= 1 << last
    order = backwards[::-1]
    weight = _ignored(arcs, order)
    return FeedbackArcs(weight, weight, tuple(order))


def _subset_costs(arcs: Floats) -> tuple[Floats, Floats]:
    """Costs of the cheapest orders [B, 2^K], and the weight from each response into each subset [B, K, 2^K]."""
    size = arcs.shape[-1]
    masks = np.arange(1 << size)
    members = masks[:, None] >> np.arange(size) & 1  # [2^K, K]
    into = arcs @ members.T.astype(np.float64)
    costs = np.full((len(arcs), 1 << size), np.inf)
    costs[:, 0] = 0.0
    sizes = members.sum(1)
    for count in range(1, size + 1):
        layer = masks[sizes == count]
        for v in range(size):
            whole = layer[members[layer, v] == 1]
            rest = whole ^ 1 << v
            costs[:, whole] = np.minimum(costs[:, whole], costs[:, rest] + into[:, v, rest])
    return costs, into


def _ignored(arcs: Floats, order: list[int]) -> float:
    return float(np.tril(arcs[np.ix_(order, order)], -1).sum())


def _improved(arcs: Floats, order: list[int]) -> list[int]:
    """Moves single responses to their best place until none gains."""
    best, moved = _ignored(arcs, order), True
    while moved:
        moved = False
        for v in list(order):
            rest = [u for u in order if u != v]
            # Placed at p, v ignores its arcs to the first p responses and theirs to it from the others.
            costs = np.concatenate([[0.0], np.cumsum(arcs[v, rest])]) + np.concatenate([np.cumsum(arcs[rest, v][::-1])[::-1], [0.0]])
            place = int(costs.argmin())
            candidate = [*rest[:place], v, *rest[place:]]
            cost = _ignored(arcs, candidate)
            if cost < best - 1e-12 * max(best, 1.0):
                order, best, moved = candidate, cost, True
    return order


def _packed(arcs: Floats) -> float:
    left = np.maximum(arcs - arcs.T, 0.0)
    total = float(np.minimum(arcs, arcs.T).sum()) / 2  # of two opposite arcs one is always ignored
    # Each cyclic triple once: its first member is its smallest.
    cycles = [(i, j, k) for i, j, k in permutations(range(len(arcs)), 3) if i < j and i < k and min(left[i, j], left[j, k], left[k, i]) > 0]
    for i, j, k in sorted(cycles, key=lambda c: -min(left[c[0], c[1]], left[c[1], c[2]], left[c[2], c[0]])):
        spent = min(left[i, j], left[j, k], left[k, i])
        total += float(spent)
        for a, b in ((i, j), (j, k), (k, i)):
            left[a, b] -= spent
    return total
