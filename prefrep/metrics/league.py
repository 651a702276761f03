"""Policies against each other: a K x K table of win rates, its cycles and its maximal lottery, with intervals over prompts.

Letters: n prompts, K policies, B resamples. A margin is P(row wins) - P(column wins), in [-1, 1].
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.rankings import maximal_lottery

Floats = NDArray[np.float64]


class Cycle(NamedTuple):
    """Three policies of which each beats the next one, and the last one the first.

    Args:
        members: Their indices, the smallest first.
        margins: Of the first over the second, the second over the third, the third over the first.
        share: Share of resamples in which it is a cycle too, in the same direction.
        sure: Whether the 95 % interval of each margin excludes 0.
    """

    members: tuple[int, int, int]
    margins: tuple[float, float, float]
    share: float
    sure: bool


class League(NamedTuple):
    """Win rates of policies against each other.

    Args:
        margins: Mean margins [K, K], skew-symmetric.
        draws: The same of resampled prompts [B, K, K].
        lottery: The mixture of policies that no policy beats [K], see `rankings.maximal_lottery`.
        lottery_draws: The same of resampled prompts [B, K].
        cycles: Cycles of three, those that occur in most resamples first.
        triples: Number of triples of policies.
    """

    margins: Floats
    draws: Floats
    lottery: Floats
    lottery_draws: Floats
    cycles: list[Cycle]
    triples: int


def league(margins: Floats, draws: int, generator: np.random.Generator) -> League:
    """Return the table of a league with its cycles and lottery.

    Args:
        margins: Margins on each prompt [n, K, K], skew-symmetric.
        draws: B.
        generator: Random numbers.
    """
    n, size, _ = margins.shape
    counts = generator.multinomial(n, np.full(n, 1 / n), size=draws)
    mean = margins.mean(0)
    means = (counts @ margins.reshape(n, -1) / n).reshape(draws, size, size)
    low = np.quantile(means, 0.025, axis=0)
    cycles = []
    for i, j, k in combinations(range(size), 3):
        for a, b, c in ((i, j, k), (i, k, j)):
            arcs = ((a, b), (b, c), (c, a))
            if all(mean[arc] > 0 for arc in arcs):
                share = float(np.all([means[:, x, y] > 0 for x, y in arcs], axis=0).mean())
                sure = all(low[arc] > 0 for arc in arcs)
                cycles.append(Cycle((a, b, c), (float(mean[a, b]), float(mean[b, c]), float(mean[c, a])), share, sure))
    cycles.sort(key=lambda cycle: -cycle.share)
    lotteries = np.stack([maximal_lottery(each) for each in means]) if draws else np.zeros((0, size))
    return League(mean, means, maximal_lottery(mean), lotteries, cycles, size * (size - 1) * (size - 2) // 6)
