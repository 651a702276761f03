"""Battles as numbers, and groups of equal ones: a million battles of 200 systems are some ten thousand groups.

Letters: `N` battles or groups of equal ones, `F` features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.outcomes import Ties, shares

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_KEYS = 1 << 24  # of groups that are counted without sorting
_LARGEST = 1 << 62  # key of a group


class Votes(NamedTuple):
    """Battles as numbers, each [N].

    Args:
        left: Place of the left system.
        right: Of the right one.
        outcome: P(left is better).
        first: 1, -1 or 0.
        judge: Place of the judge.
        weight: Sum of the weights.
        squared: Sum of the squared weights.
        cluster: Battles with one number are not independent; -1 everywhere: all are.
        features: Differences of features, [N, F].
    """

    left: Codes
    right: Codes
    outcome: Floats
    first: Floats
    judge: Codes
    weight: Floats
    squared: Floats
    cluster: Codes
    features: Floats

    def take(self, rows: NDArray[Any]) -> Votes:
        """Return some battles, by places or a mask [N]."""
        return Votes(
            self.left[rows], self.right[rows], self.outcome[rows], self.first[rows], self.judge[rows], self.weight[rows],
            self.squared[rows], self.cluster[rows], self.features[rows],
        )  # fmt: skip

    def weighed(self, factor: Floats) -> Votes:
        """Return the votes with weights times a factor, [N]."""
        return self._replace(weight=self.weight * factor, squared=self.squared * factor**2)

    @property
    def independent(self) -> bool:
        """Whether each battle, or each group of equal ones, is a cluster of its own."""
        return bool((self.cluster < 0).all())


def grouped(votes: Votes, by_cluster: bool = True, by_outcome: bool = True) -> tuple[Votes, Codes]:
    """Add up equal battles.

    Args:
        votes: Battles; with features they are left as they are.
        by_cluster: Whether battles of different clusters stay apart.
        by_outcome: Whether battles of different outcomes stay apart; otherwise `outcome` is their mean.

    Returns:
        The groups, and the group of each battle.
    """
    if votes.features.shape[1]:
        return votes, np.arange(len(votes.left))
    columns = [votes.left, votes.right, votes.first.astype(np.int64) + 1, votes.judge]
    if by_outcome:
        columns.append(np.unique(votes.outcome, return_inverse=True)[1])
    if by_cluster and not votes.independent:
        columns.append(votes.cluster)
    size, key = 1, np.zeros(len(votes.left), dtype=np.int64)
    for column in columns:
        span = int(column.max(initial=0)) + 1
        if size * span > _LARGEST:
            key = np.unique(key, return_inverse=True)[1]
            size = int(key.max(initial=0)) + 1
        size, key = size * span, key * span + column
    if size <= _KEYS:
        there = np.flatnonzero(np.bincount(key, minlength=size))
        place = np.zeros(size, dtype=np.int64)
        place[there] = np.arange(len(there))
        group = place[key]
        one = np.zeros(len(there), dtype=np.int64)
        one[group] = np.arange(len(key))
    else:
        _, one, group = np.unique(key, return_index=True, return_inverse=True)
    count = len(one)
    weight = np.bincount(group, votes.weight, count).astype(np.float64)
    outcome = votes.outcome[one]
    if not by_outcome:
        outcome = np.bincount(group, votes.weight * votes.outcome, count) / np.where(weight > 0, weight, 1)
    squared = np.bincount(group, votes.squared, count).astype(np.float64)
    return votes.take(one)._replace(weight=weight, squared=squared, outcome=outcome), group


class Cells(NamedTuple):
    """Groups of battles with equal log-odds, C of them.

    Attributes:
        votes: One battle of each, [C].
        share: Weights of wins, ties and losses, [C, 3].
        group: The group of each battle, [N].
        shares: Weights of each battle, [N, 3].
    """

    votes: Votes
    share: Floats
    group: Codes
    shares: Floats

    def weighed(self, factor: Floats) -> Cells:
        """Return the groups of battles whose weights are multiplied by a factor, [N]."""
        return self._replace(share=_summed(self.shares * factor[:, None], self.group, len(self.share)))


def cells_of(votes: Votes, ties: Ties) -> Cells:
    """Return the groups of battles with equal log-odds, from which fits start."""
    cells, group = grouped(votes, by_cluster=False, by_outcome=False)
    weights = shares(votes.outcome, ties) * votes.weight[:, None]
    return Cells(cells, _summed(weights, group, len(cells.left)), group, weights)


def _summed(weights: Floats, group: Codes, count: int) -> Floats:
    return np.stack([np.bincount(group, column, count) if column.any() else np.zeros(count) for column in weights.T], axis=-1)
