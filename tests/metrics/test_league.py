"""A league of policies against what its margins say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prefrep.metrics.league import league

CYCLE = np.array([[0.0, 0.6, -0.4], [-0.6, 0.0, 0.2], [0.4, -0.2, 0.0]])


def noisy(mean: NDArray[np.float64], n: int, spread: float, seed: int = 0) -> NDArray[np.float64]:
    noise = np.random.default_rng(seed).normal(0, spread, (n, *mean.shape))
    return np.asarray(mean + noise - np.swapaxes(noise, 1, 2))


def test_rock_paper_scissors() -> None:
    """0 beats 1 beats 2 beats 0; each policy's share of the lottery is proportional to the margin between the other two."""
    found = league(noisy(CYCLE, 400, 0.1), 300, np.random.default_rng(1))
    (cycle,) = found.cycles
    assert cycle.members == (0, 1, 2) and cycle.sure and cycle.share == 1 and found.triples == 1
    assert cycle.margins == pytest.approx((0.6, 0.2, 0.4), abs=0.03)
    assert found.lottery == pytest.approx(np.array([0.2, 0.4, 0.6]) / 1.2, abs=0.03)
    low, high = np.quantile(found.draws, [0.025, 0.975], axis=0)
    assert (low <= found.margins).all() and (found.margins <= high).all()
    assert high[0, 1] - low[0, 1] == pytest.approx(2 * 1.96 * 0.1 * np.sqrt(2) / 20, rel=0.2), "of a mean of 400"
    assert found.lottery_draws.sum(1) == pytest.approx(np.ones(300))


def test_the_direction_of_a_cycle() -> None:
    (cycle,) = league(noisy(-CYCLE, 50, 0.01), 20, np.random.default_rng(1)).cycles
    assert cycle.members == (0, 2, 1) and cycle.margins == pytest.approx((0.4, 0.2, 0.6), abs=0.02)


def test_a_ranking_has_no_cycles_and_one_winner() -> None:
    rewards = np.array([0.1, 0.5, 0.3, -0.2])
    found = league(noisy(rewards[:, None] - rewards, 200, 0.05), 50, np.random.default_rng(1))
    assert found.cycles == [] and found.triples == 4 and found.lottery == pytest.approx([0, 1, 0, 0])


def test_a_cycle_by_chance_is_not_sure() -> None:
    """Equal policies on few prompts: where a cycle shows, resamples often lack it."""
    chance = [league(noisy(np.zeros((3, 3)), 20, 0.5, seed), 200, np.random.default_rng(seed)).cycles for seed in range(40)]
    cycles = [each[0] for each in chance if each]
    assert 2 <= len(cycles) <= 20, "a quarter of the triples of coins"
    assert not any(cycle.sure for cycle in cycles) and np.mean([cycle.share for cycle in cycles]) < 0.9
