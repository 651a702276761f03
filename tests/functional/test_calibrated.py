"""Calibrated win rates and fronts against loops, and the check of two conflicting rewards on scales 20 : 1."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from prefrep.functional.calibrated import front_pairs, undominated, win_rates


def tables_of(rewards: Tensor) -> Tensor:
    """Log-odds of Bradley-Terry rewards [.., K]."""
    return rewards[..., :, None] - rewards[..., None, :]


def test_win_rates_are_means_over_the_others() -> None:
    rewards = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = win_rates(tables_of(rewards))
    for n, j, i in itertools.product(range(2), range(3), range(5)):
        wins = [torch.sigmoid(rewards[n, j, i] - rewards[n, j, k]) for k in range(5) if k != i]
        torch.testing.assert_close(found[n, j, i], torch.stack(wins).mean())


def test_win_rates_have_a_common_scale() -> None:
    """A constant on a reward changes nothing, and the mean over responses is 1/2 of any skew table."""
    generator = torch.Generator().manual_seed(1)
    rewards, table = torch.randn(4, 6, generator=generator), torch.randn(4, 6, 6, generator=generator)
    torch.testing.assert_close(win_rates(tables_of(rewards + 7)), win_rates(tables_of(rewards)))
    torch.testing.assert_close(win_rates(table - table.mT).mean(-1), torch.full((4,), 0.5))


def test_fronts_against_a_loop() -> None:
    rates = torch.randint(0, 4, (50, 2, 6), generator=torch.Generator().manual_seed(2)).double()  # with ties

    def dominates(a: Tensor, b: Tensor) -> bool:
        return bool((a >= b).all()) and bool((a > b).any())

    for each in rates:
        points = list(each.T)
        upper = [not any(dominates(b, a) for b in points) for a in points]
        lower = [not any(dominates(a, b) for b in points) for a in points]
        assert undominated(each).tolist() == upper and undominated(-each).tolist() == lower
        pairs = [[upper[i] and lower[j] and i != j for j in range(6)] for i in range(6)]
        assert front_pairs(each).tolist() == pairs and any(map(any, pairs))
        assert not any(dominates(points[j], points[i]) for i in range(6) for j in range(6) if pairs[i][j])


def test_one_judge_leaves_the_best_and_the_worst() -> None:
    assert front_pairs(torch.tensor([[0.4, 0.9, 0.1, 0.6]])).nonzero().tolist() == [[1, 2]]


def test_conflicting_rewards_on_different_scales() -> None:
    """300 prompts of 16 responses, qualities A and B = -0.6 A + 0.8 g, rewards 20 A and B.

    How often is the preferred response better on B? By the sum of rewards 4 % of the time, by calibrated rates 78 %, on the fronts 71 %
    (and 73 % better on A): independent figures from other random numbers, whose standard errors are 1.1, 2.4 and, with many pairs a prompt,
    about 1.5 points. The tolerances are above three of the difference.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 16, generator=generator)
    b = -0.6 * a + 0.8 * torch.randn(300, 16, generator=generator)
    rates = win_rates(tables_of(torch.stack([20 * a, b], 1)))

    def better(scores: Tensor, quality: Tensor) -> float:
        best, worst = scores.argmax(-1, keepdim=True), scores.argmin(-1, keepdim=True)
        return float((quality.gather(-1, best) > quality.gather(-1, worst)).float().mean())

    def on_fronts(quality: Tensor) -> float:
        pairs = front_pairs(rates)
        wins = (quality[..., :, None] > quality[..., None, :]) & pairs
        return float((wins.sum((-1, -2)) / pairs.sum((-1, -2))).mean())

    assert abs(better(20 * a + b, b) - 0.04) < 0.05 and better(20 * a + b, a) == 1
    assert abs(better(rates.mean(-2), b) - 0.78) < 0.105
    assert abs(on_fronts(b) - 0.71) < 0.065 and abs(on_fronts(a) - 0.73) < 0.065
    dominated = (rates[..., None, :] >= rates[..., :, None]).all(1) & (rates[..., None, :] > rates[..., :, None]).any(1)
    assert not (dominated & front_pairs(rates)).any()
