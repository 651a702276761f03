"""Games played by the objectives themselves: their minimisers in closed form, and who converges to what."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional.rankings import maximal_lottery
from prefrep.nn.games import duality_gap, play
from prefrep.nn.objectives import (
    ExtragradientObjective,
    GPOObjective,
    INPOObjective,
    MagneticObjective,
    NashMDObjective,
    OptimisticObjective,
    PolicyObjective,
    SPPOObjective,
)

ROCK = 0.4 * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64)
START = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
BETA, TAU = 1.0, 0.1


def random_game(size: int, seed: int = 0) -> Tensor:
    draws = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wins = (draws - draws.T).sigmoid() - 0.5
    return (wins - wins.T) / 2


def step(centre: Tensor, gains: Tensor, magnet: Tensor | None = None) -> Tensor:
    logs = centre.log() if magnet is None else (1 - TAU / BETA) * centre.log() + TAU / BETA * magnet.log()
    return (logs + gains / BETA).softmax(0)


def test_the_duality_gap_is_what_a_best_response_wins() -> None:
    payoff = random_game(5)
    policy = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    gains = [sum(float(payoff[i, j] * policy[j]) for j in range(5)) for i in range(5)]
    losses = [sum(float(policy[i] * payoff[i, j]) for i in range(5)) for j in range(5)]
    assert float(duality_gap(policy, payoff)) == pytest.approx(max(gains) - min(losses))
    nash = torch.from_numpy(maximal_lottery(payoff.numpy()))
    assert float(duality_gap(nash, payoff)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("size", [3, 10])
def test_minimisers_are_the_steps_that_the_papers_write_down(size: int) -> None:
    payoff = random_game(size)
    start = torch.arange(1.0, size + 1, dtype=torch.float64)
    start = start / start.sum()
    plain = [start]
    anchored, optimistic, extra, magnetic = [start], [start], [start], [start]
    for t in range(4):
        plain.append(step(plain[t], payoff @ plain[t]))
        anchored.append(step(anchored[t], payoff @ anchored[t], start))
        optimistic.append(step(optimistic[t], payoff @ (2 * optimistic[t] - optimistic[max(t - 1, 0)])))
        extra.append(step(extra[t - t % 2], payoff @ extra[t], start))
        magnetic.append(step(magnetic[t], payoff @ magnetic[t], magnetic[t - t % 3]))
    cases: list[tuple[PolicyObjective, list[Tensor]]] = [
        (INPOObjective(BETA, 0.0), plain),
        (INPOObjective(BETA, TAU), anchored),
        (OptimisticObjective(BETA), optimistic),
        (ExtragradientObjective(BETA, TAU), extra),
        (MagneticObjective(BETA, TAU, 3), magnetic),
    ]
    for objective, expected in cases:
        torch.testing.assert_close(play(objective, payoff, start, 4), torch.stack(expected), atol=1e-9, rtol=0)


def test_regressions_without_a_normaliser_end_where_their_gradient_is_zero() -> None:
    """Of sum_i p_i e_i^2 with e = log pi / p - gain / beta: p_k e_k = pi_k sum_i p_i e_i for all k; GPO and SPPO see the same payoffs."""
    payoff = random_game(6)
    start = torch.arange(1.0, 7, dtype=torch.float64) / 21
    policies = play(GPOObjective(BETA, select="all", self_comparison=False), payoff, start, 2)
    torch.testing.assert_close(play(SPPOObjective(BETA, select="all", self_comparison=False), payoff, start, 2), policies)
    for before, after in pairwise(policies):
        errors = (after / before).log() - payoff @ before / BETA
        torch.testing.assert_close(before * errors, after * (before * errors).sum(), atol=1e-10, rtol=0)


def averages(policies: Tensor) -> Tensor:
    return policies.cumsum(0) / torch.arange(1, len(policies) + 1)[:, None]


def test_who_converges_on_rock_paper_scissors() -> None:
    nash = torch.full((3,), 1 / 3, dtype=torch.float64)
    around: list[PolicyObjective] = [INPOObjective(BETA, 0.0), GPOObjective(BETA, select="all", self_comparison=False)]
    for objective in around:
        cycling = play(objective, ROCK, START, 80)
        gaps = duality_gap(cycling, ROCK)
        assert gaps[-1] > 2 * gaps[0], "the last iterate spirals outwards"
        assert duality_gap(averages(cycling), ROCK)[-1] < gaps[0] / 2
    for objective, rounds in (
        (OptimisticObjective(BETA), 100),
        (ExtragradientObjective(BETA), 150),
        (MagneticObjective(BETA, TAU, 20), 120),
    ):
        policies = play(objective, ROCK, START, rounds)
        gaps = duality_gap(policies, ROCK)
        assert gaps[-1] < gaps[0] / 4, "the last iterate converges"
    torch.testing.assert_close(policies[-1], nash, atol=1e-4, rtol=0)


def test_a_fixed_magnet_leads_to_the_nash_policy_of_the_penalised_game() -> None:
    """There pi is proportional to pi_0 exp(A pi / tau), which is not a Nash policy of the game itself."""
    last = play(INPOObjective(BETA, TAU), ROCK, START, 180)[-1]
    torch.testing.assert_close(last, (START.log() + ROCK @ last / TAU).softmax(0), atol=1e-5, rtol=0)
    assert duality_gap(last, ROCK) > 0.05
    pulled = play(NashMDObjective(BETA, 0.25, 0.25, select="all", self_comparison=False), ROCK, START, 60)
    torch.testing.assert_close(pulled[-1], pulled[-2], atol=1e-6, rtol=0)
    assert duality_gap(pulled[-1], ROCK) > 0.05


def test_rare_responses_move_as_exactly_as_common_ones() -> None:
    start = torch.tensor([1 - 2e-30, 1e-30, 1e-30], dtype=torch.float64)
    found = play(INPOObjective(BETA, 0.0), ROCK, start, 1)[1]
    torch.testing.assert_close(found.log(), step(start, ROCK @ start).log(), atol=1e-8, rtol=0)


def test_a_game_that_is_none() -> None:
    objective = INPOObjective()
    with pytest.raises(ConfigError, match="skew matrix"):
        play(objective, ROCK + 0.1, START, 1)
    with pytest.raises(ConfigError, match="between -1/2 and 1/2"):
        play(objective, 2 * ROCK, START, 1)
    with pytest.raises(ConfigError, match="3 positive probabilities"):
        play(objective, ROCK, torch.tensor([0.5, 0.5, 0.0]), 1)
