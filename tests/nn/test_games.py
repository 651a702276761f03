"""Exact games: softmax policies over a few arms whose preferences are a known skew matrix.

The population step of GPO is pi'(y) = pi(y) exp(s(y > pi) / beta) / Z: multiplicative weights with rate 1 / beta. For a skew game the
duality gap of a policy p is max_i s(i > p) - min_i s(p > i) = 2 max_i s(i > p), and a Nash policy is one with gap 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prefrep.functional.gpo import Judged
from prefrep.nn.objectives import GPOObjective, PolicyObjective, SPPOObjective

CYCLE = torch.tensor([[0.0, 1.0, -2.0], [-1.0, 0.0, 3.0], [2.0, -3.0, 0.0]], dtype=torch.float64)
NASH = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64) / 6  # CYCLE @ NASH = 0, by hand: (2 - 2, -3 + 3, 6 - 6) / 6
TRANSITIVE = torch.tensor([[0.0, 0.4, 1.0], [-0.4, 0.0, 0.5], [-1.0, -0.5, 0.0]], dtype=torch.float64)
START = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def gap(policy: Tensor, scores: Tensor) -> float:
    return 2 * float((scores @ policy).max())


def step(policy: Tensor, advantages: Tensor, rate: float) -> Tensor:
    return torch.softmax(policy.log() + rate * advantages, 0)


def judged(arms: Tensor, policy: Tensor, scores: Tensor) -> Judged:
    """One prompt whose K responses are the arms that were drawn."""
    own = scores[arms][:, arms][None]
    logprobs = policy.log()[arms][None]
    return Judged(own, torch.zeros(1, len(arms), 0, dtype=scores.dtype), logprobs, logprobs, torch.ones(1, len(arms)))


def regress(objective: PolicyObjective, arms: Tensor, policy: Tensor, scores: Tensor) -> Tensor:
    """The softmax policy that minimises the objective on the drawn arms."""
    logits = policy.log().clone().requires_grad_()
    data = judged(arms, policy, scores)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        selected = objective.selected(data)
        value = objective(logits.log_softmax(0)[arms][None].gather(-1, selected), data, selected).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return logits.detach().softmax(0)


def test_the_regression_finds_the_multiplicative_weights_step() -> None:
    """Arms in the proportions of the policy make sample means expectations, and the estimate of Z exact: then the fit is perfect."""
    policy = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    arms = torch.tensor([0, 1, 2, 2])
    expected = step(policy, CYCLE @ policy, rate=1 / 0.8)
    found = regress(GPOObjective(0.8, select="all", log_z="estimated"), arms, policy, CYCLE)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    wins = CYCLE.sigmoid() @ policy - 0.5
    # SPPO takes log Z for 0; what is left of it is a constant that a policy cannot have, hence near and not equal.
    torch.testing.assert_close(
        regress(SPPOObjective(0.8, select="all"), arms, policy, CYCLE), step(policy, wins, 1 / 0.8), atol=0.02, rtol=0
    )


def test_gpo_goes_to_the_best_arm_of_a_transitive_game() -> None:
    """Round after round with K = 8 responses drawn at random, as with a language model; the start prefers the worst arm."""
    generator, policy = torch.Generator().manual_seed(0), START
    objective = GPOObjective(beta=1.0, select="all", log_z="estimated")
    for _ in range(25):
        arms = torch.multinomial(policy, 8, replacement=True, generator=generator)
        policy = regress(objective, arms, policy, TRANSITIVE)
    assert policy[0] > 0.95 and gap(policy, TRANSITIVE) < 0.1 < gap(START, TRANSITIVE)


def multiplicative_weights(scores: Tensor, rounds: int) -> Tensor:
    """The average policy, at the rate that theorem 5.1 asks for: beta = rho sqrt(T / (2 log K))."""
    rate = math.sqrt(2 * math.log(len(scores)) / rounds) / float(scores.abs().max())
    policy, total = START, torch.zeros_like(START)
    for _ in range(rounds):
        total = total + policy
        policy = step(policy, scores @ policy, rate)
    return total / rounds


def test_the_average_policy_of_a_cycle_is_nash_with_a_gap_of_one_over_root_t() -> None:
    """Regret of multiplicative weights over T rounds, scores in [-rho, rho]: at most log(1 / min pi_0) / rate + rate T rho^2 / 2."""
    gaps = {}
    for rounds in (64, 256, 1024, 4096):
        average = multiplicative_weights(CYCLE, rounds)
        gaps[rounds] = gap(average, CYCLE)
        rho = float(CYCLE.abs().max())
        rate = math.sqrt(2 * math.log(3) / rounds) / rho
        regret = math.log(1 / float(START.min())) / rate + rate * rounds * rho**2 / 2
        assert gaps[rounds] <= 2 * regret / rounds
    assert gaps[4096] < 0.25 * gaps[64], "8 times more sqrt(T), with room for constants"
    torch.testing.assert_close(multiplicative_weights(CYCLE, 4096), NASH, atol=0.02, rtol=0)
    fair = CYCLE.sign()  # rock, paper, scissors
    torch.testing.assert_close(multiplicative_weights(fair, 4096), torch.full_like(START, 1 / 3), atol=0.02, rtol=0)


def test_a_policy_that_follows_bradley_terry_does_not_find_nash() -> None:
    """The best rewards for a cycle still name a winner, and whoever follows them is beaten by what beats it."""
    rewards = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        differences, wins = rewards[:, None] - rewards[None], CYCLE.sigmoid()
        value = -(wins * torch.nn.functional.logsigmoid(differences)).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    reward = rewards.detach()
    # Where the likelihood is highest each arm is expected to win as often as it does.
    expected, actual = (reward[:, None] - reward[None]).sigmoid().sum(1), CYCLE.sigmoid().sum(1)
    torch.testing.assert_close(expected, actual, atol=1e-4, rtol=0)
    policy, total = START, torch.zeros_like(START)
    for _ in range(4096):
        total = total + policy
        policy = step(policy, reward, 0.1)
    assert policy.max() > 0.99 and gap(total / 4096, CYCLE) > 1.0
    fair = CYCLE.sign()  # here all rewards are equal, so the policy stays where it was
    assert gap(step(START, torch.zeros(3), 1.0), fair) == gap(START, fair) > 0.3
