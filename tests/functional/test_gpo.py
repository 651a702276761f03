"""Formulas of general preference optimization against numbers derived by hand and slow loops."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from prefrep.functional import gpo

# Three responses; the first beats the second by 1 nat and loses to the third by 2; the second beats the third by 3.
TABLE = torch.tensor([[0.0, 1.0, -2.0], [-1.0, 0.0, 3.0], [2.0, -3.0, 0.0]])


def test_the_mean_has_the_response_itself_among_its_opponents_or_not() -> None:
    torch.testing.assert_close(gpo.mean_over_opponents(TABLE, True), torch.tensor([-1 / 3, 2 / 3, -1 / 3]))
    torch.testing.assert_close(gpo.mean_over_opponents(TABLE, False), torch.tensor([-1 / 2, 1.0, -1 / 2]))
    halves = TABLE.sigmoid()  # the diagonal is a half, and leaves with the response itself
    expected = [(halves[i].sum() - 0.5) / 2 for i in range(3)]
    torch.testing.assert_close(gpo.mean_over_opponents(halves, False), torch.stack(expected))


def test_a_mixed_opponent_is_a_mixture() -> None:
    initial = torch.tensor([[1.0, 3.0], [0.0, 0.0], [-4.0, 2.0]])
    torch.testing.assert_close(gpo.against_mixture(TABLE, initial, 1.0, True), torch.tensor([2.0, 0.0, -1.0]))
    torch.testing.assert_close(gpo.against_mixture(TABLE, initial, 0.25, True), torch.tensor([0.25, 0.5, -0.5]))
    nobody = torch.zeros(3, 0)
    torch.testing.assert_close(gpo.against_mixture(TABLE, nobody, 0.0, False), gpo.mean_over_opponents(TABLE, False))


def test_log_z_is_the_log_of_a_mean() -> None:
    exponents = torch.tensor([[math.log(1.0), math.log(2.0), math.log(6.0)], [1000.0, 1000.0, 1000.0]])
    torch.testing.assert_close(gpo.log_partition(exponents), torch.tensor([[math.log(3.0)], [1000.0]]))


def test_length_normalisation_divides_the_log_ratio() -> None:
    ratios, targets, lengths = torch.tensor([6.0, -8.0]), torch.tensor([1.0, 1.0]), torch.tensor([4, 16])
    torch.testing.assert_close(gpo.squared_errors(ratios, targets, lengths), torch.tensor([25.0, 81.0]))
    torch.testing.assert_close(gpo.squared_errors(ratios, targets, lengths, gamma=1.0), torch.tensor([0.25, 2.25]))
    torch.testing.assert_close(gpo.squared_errors(ratios, targets, lengths, gamma=0.5), torch.tensor([4.0, 9.0]))
    empty = gpo.squared_errors(torch.zeros(1), torch.ones(1), torch.tensor([0]), gamma=1.0)
    torch.testing.assert_close(empty, torch.ones(1))  # no token is no division by zero


def test_best_and_worst_differ_even_where_all_are_equal() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 5.0, 5.0]])
    assert gpo.best_and_worst(scores).tolist() == [[0, 1], [0, 2], [1, 0]]


def test_dpo_and_ipo() -> None:
    best, worst = torch.tensor([2.0]), torch.tensor([-1.0])
    torch.testing.assert_close(gpo.dpo(best, worst, 0.5), torch.tensor([math.log(1 + math.exp(-1.5))]))
    torch.testing.assert_close(gpo.ipo(best, worst, 0.5), torch.tensor([4.0]))  # (3 - 1)^2
    torch.testing.assert_close(gpo.ipo(best, worst, 1 / 6), torch.tensor([0.0]))


def test_pairwise_errors_are_a_loop_over_pairs() -> None:
    ratios = torch.tensor([[0.5, -1.0, 2.0]])
    expected = [(ratios[0, i] - ratios[0, j] - TABLE[i, j]) ** 2 for i, j in combinations(range(3), 2)]
    torch.testing.assert_close(gpo.pairwise_errors(ratios, TABLE[None]), torch.stack(expected).mean()[None])


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_preferring_the_best_more_lowers_the_loss(name: str) -> None:
    loss = getattr(gpo, name)
    assert loss(torch.tensor(0.5), torch.tensor(0.0), 0.1) < loss(torch.tensor(0.0), torch.tensor(0.5), 0.1)
