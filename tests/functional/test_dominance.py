"""Sets of best systems against their definitions, by brute force over all outcomes of the pairs that are unknown."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from prefrep.functional.dominance import comparable, top_cycle, uncovered


def dominant(margins: np.ndarray) -> np.ndarray:
    """The smallest non-empty set whose members beat all others, from all sets."""
    size = len(margins)
    for count in range(1, size + 1):
        for members in combinations(range(size), count):
            others = [i for i in range(size) if i not in members]
            if all(margins[i, j] > 0 for i in members for j in others):
                return np.isin(np.arange(size), members)
    raise AssertionError


def two_steps(margins: np.ndarray) -> np.ndarray:
    """Systems i such that for each j, i does not lose to j, or to some k that does not lose to j."""
    size = len(margins)
    good = margins >= 0
    return np.array([all(i == j or good[i, j] or any(k not in (i, j) and good[i, k] and good[k, j] for k in range(size)) for j in range(size)) for i in range(size)])  # fmt: skip # noqa: E501


def table(size: int, seed: int, unknown: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.choice([-1, 0, 1] if ties else [-1, 1], (size, size)), 1)
    known = ~np.eye(size, dtype=bool)
    pairs = list(combinations(range(size), 2))
    for at in rng.choice(len(pairs), unknown, replace=False):
        i, j = pairs[at]
        known[i, j] = known[j, i] = False
    return np.where(known, upper - upper.T, 0).astype(float), known


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("unknown", [0, 2, 4])
def test_membership_is_that_of_some_and_of_all_outcomes(seed: int, unknown: int) -> None:
    margins, known = table(6, seed, unknown, ties=seed % 2 == 1)
    open_pairs = [(i, j) for i, j in combinations(range(6), 2) if not known[i, j]]
    for found, rule in ((top_cycle(margins, known), dominant), (uncovered(margins, known), two_steps)):
        every = []
        for signs in product((1.0, -1.0), repeat=len(open_pairs)):
            filled = margins.copy()
            for (i, j), sign in zip(open_pairs, signs, strict=True):
                filled[i, j], filled[j, i] = sign, -sign
            every.append(rule(filled))
        np.testing.assert_array_equal(found.possible, np.any(every, axis=0))
        np.testing.assert_array_equal(found.certain, np.all(every, axis=0))


def test_what_battles_compare() -> None:
    """0, 1, 2 in a circle; 3 beats them and never loses; 4 and 5 never met the others; 6 lost to 0 alone."""
    won = np.zeros((7, 7))
    for i, j in ((0, 1), (1, 2), (2, 0), (3, 0), (4, 5), (5, 4), (0, 6)):
        won[i, j] = 1
    found = comparable(won)
    assert found.component[[0, 1, 2, 3, 6]].tolist() == [found.component[0]] * 5
    assert found.component[4] == found.component[5] != found.component[0]
    assert np.flatnonzero(found.unbounded).tolist() == [3, 6]
    assert not comparable(won + won.T).unbounded.any()
