"""Minimum feedback arc set of a table: the least weight to remove before the verdicts form an order.

An arc i -> j of weight w_ij >= 0 means that i beats j. An order of the responses violates the arcs from a worse to a better rank; the best
order violates the least weight (Kemeny's rule, or Slater's with unit weights). Letters: `K` responses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT = 14  # the largest K for which 2^K subsets are visited
_CELLS = 1 << 23  # numbers held at a time, 64 MB


class FeedbackArcs(NamedTuple):
    """Best order that was found, and the weight of the arcs that it violates.

    Attributes:
        weight: Violated weight: the minimum up to K = EXACT, an upper bound beyond.
        lower: Lower bound of the minimum; equals `weight` if that is known to be the minimum.
        order: The responses, best first.
    """

    weight: float
    lower: float
    order: tuple[int, ...]


def minimum_weights(arcs: Floats) -> Floats:
    """Return the weights of the minimum feedback arc sets of many tables, exactly.

    Dynamic programming over subsets: the cheapest order of a subset S ends in some v, at the cost of the arcs of v into S without v. It
    takes 2^K K steps per table.

    Args:
        arcs: w, [B, K, K], not negative, K <= EXACT.

    Returns:
        [B].

    Raises:
        ValueError: K exceeds EXACT.
    """
    size = arcs.shape[-1]
    if size > EXACT:
        raise ValueError(f"minimum_weights visits 2^K subsets and stops at K = {EXACT}, got {size}")
    step = max(1, _CELLS // ((size + 1) << size))
    parts = [_subset_costs(arcs[i : i + step])[0][:, -1] for i in range(0, len(arcs), step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def minimum(arcs: Floats) -> FeedbackArcs:
    """Return the minimum feedback arc set of one table.

    The result is exact up to K = EXACT. Beyond, `weight` is that of the better of two local optima: orders by net weight and by wins,
    improved by moves of single responses. `lower` packs cyclic triples: each needs one arc removed, and no weight is counted twice.

    Args:
        arcs: w, [K, K], not negative.
    """
    size = len(arcs)
    if size > EXACT:
        net, wins = (arcs - arcs.T).sum(1), (arcs > arcs.T).sum(1) - (arcs < arcs.T).sum(1)
        found = [_improved(arcs, [int(i) for i in np.argsort(-start, kind="stable")]) for start in (net, wins)]
        order = min(found, key=lambda each: _violated(arcs, each))
        weight = _violated(arcs, order)
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
    weight = _violated(arcs, order)
    return FeedbackArcs(weight, weight, tuple(order))


def _subset_costs(arcs: Floats) -> tuple[Floats, Floats]:
    """Return costs of the cheapest orders [B, 2^K], and the weight from each response into each subset [B, K, 2^K]."""
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


def _violated(arcs: Floats, order: list[int]) -> float:
    return float(np.tril(arcs[np.ix_(order, order)], -1).sum())


def _improved(arcs: Floats, order: list[int]) -> list[int]:
    """Move single responses to their best rank until no move helps."""
    places, least, moved = np.array(order), 1e-12 * max(_violated(arcs, order), 1.0), True
    while moved:
        moved = False
        for v in places.copy():
            rank = int(np.flatnonzero(places == v)[0])
            rest = np.delete(places, rank)
            # At rank p, v violates its arcs to the first p responses and the arcs of the others to it.
            costs = np.concatenate([[0.0], np.cumsum(arcs[v, rest])]) + np.concatenate([np.cumsum(arcs[rest, v][::-1])[::-1], [0.0]])
            place = int(costs.argmin())
            if costs[place] < costs[rank] - least:
                places, moved = np.insert(rest, place, v), True
    return [int(v) for v in places]


def _packed(arcs: Floats) -> float:
    left = np.maximum(arcs - arcs.T, 0.0)
    total = float(np.minimum(arcs, arcs.T).sum()) / 2  # every order violates one of two opposite arcs
    # Heavy arcs first, each with the third corners that leave most.
    heads, tails = np.nonzero(left)
    for at in np.argsort(-left[heads, tails], kind="stable"):
        i, j = int(heads[at]), int(tails[at])
        while left[i, j] > 0:
            closing = np.minimum(left[j], left[:, i])
            k = int(closing.argmax())
            spent = min(left[i, j], closing[k])
            if spent <= 0:
                break
            total += float(spent)
            for a, b in ((i, j), (j, k), (k, i)):
                left[a, b] -= spent
    return total
