"""Exact games: tabular policies over K responses, trained by the objectives of policies on expectations in place of samples.

A game is a skew payoff matrix A [K, K] with |A| < 1/2: A_ij = P(i > j) - 1/2. In a round the objective sees what it sees in training: two
responses that pi_t drew, their table, and log-probabilities. All K^2 draws enter with their probability, so that the loss is its
expectation, and the next policy is its exact minimiser. Nothing is estimated, so what a sequence of policies does is what the objective
does. With two responses, objectives that average over opponents need `self_comparison: false`: with themselves among two they get half the
expected payoff.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prefrep.errors import ConfigError, TrainingError
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives import PolicyObjective


def duality_gap(policy: Tensor, payoff: Tensor) -> Tensor:
    """Return max_i A(i, p) - min_i A(p, i) = 2 max_i A(i, p) of policies p [.., K] -> [..]; it is 0 for Nash policies alone."""
    return 2 * (policy @ payoff.T).amax(-1)


def play(objective: PolicyObjective, payoff: Tensor, start: Tensor, rounds: int) -> Tensor:
    """Return the policies of all rounds, the start first [rounds + 1, K].

    Args:
        objective: The objective. Its payoffs are A whether its `values` are win rates or log-odds (its table is made accordingly). One that
            makes win rates elsewhere, as CaPO does, gets A as log-odds.
        payoff: A, skew, all entries between -1/2 and 1/2 [K, K].
        start: pi_0, positive [K].
        rounds: Number of rounds.

    Raises:
        ConfigError: The payoffs or the start are not as they must be.
        TrainingError: A minimiser was not found.
    """
    payoff, start = payoff.double(), start.double()
    if not torch.equal(payoff, -payoff.T) or float(payoff.abs().max()) >= 0.5:
        raise ConfigError("payoffs must be a skew matrix with entries between -1/2 and 1/2")
    if start.shape != payoff.shape[:1] or not (start > 0).all() or abs(float(start.sum()) - 1) > 1e-9:
        raise ConfigError(f"the start must be {len(payoff)} positive probabilities that sum to 1")
    logs = [start.log()]
    for number in range(rounds):
        logs.append(_minimiser(objective, *_judged(objective, payoff, logs, number)))
    return torch.stack(logs).exp()


def _judged(objective: PolicyObjective, payoff: Tensor, logs: list[Tensor], number: int) -> tuple[Tensor, Tensor, Judged, Tensor]:
    """Return log pi_t, all draws of two responses, what is known about them, and their probabilities."""
    now, count = logs[number], len(payoff)
    drawn = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    win_rates = _reads_win_rates(objective)

    def table(values: Tensor) -> Tensor:
        return torch.logit(values + 0.5) if win_rates else values

    def against(policy: Tensor) -> Tensor:
        """One opponent that stands for a policy: its table entry is worth the mean payoff."""
        return table(payoff @ policy.exp())[drawn][..., None]

    before = objective.earlier(number)
    judged = Judged(
        table=table(payoff)[drawn[:, :, None], drawn[:, None, :]],
        initial_table=against(logs[0]),
        reference=now[drawn],
        initial=logs[0][drawn],
        lengths=torch.ones(drawn.shape),
        earlier=None if before is None else logs[before][drawn],
        earlier_table=None if before is None else against(logs[before]),
    )
    return now, drawn, judged, now[drawn].sum(-1).exp()


def _reads_win_rates(objective: PolicyObjective) -> bool:
    """Return whether the objective averages P - 1/2 over opponents; else it averages log-odds."""
    values = getattr(objective, "values", lambda table: table)
    return float(values(torch.tensor(8.0))) < 0.5


def _minimiser(objective: PolicyObjective, now: Tensor, drawn: Tensor, judged: Judged, weight: Tensor, tolerance: float = 1e-9) -> Tensor:
    """Return the log-probabilities that minimise the expected loss, by Newton steps on the logits.

    The curvature is that of the loss in log-probabilities, which a regression has constant, seen through the softmax (Gauss-Newton).
    """
    selected = objective.selected(judged)
    chosen = drawn.gather(-1, selected)

    def loss(logs: Tensor) -> Tensor:
        return (weight * objective(logs[chosen], judged, selected)).sum()

    logs, size, curvature = now, math.inf, None
    for _ in range(300):
        point = logs.clone().requires_grad_()
        value = loss(point)
        (gradient,) = torch.autograd.grad(value, point)
        if curvature is None:
            curvature = torch.autograd.functional.hessian(loss, logs, vectorize=True)
        step = _newton(gradient, curvature, logs.exp())
        before, size = size, float(step.abs().max())
        if size < tolerance:
            return logs
        share, limit = 1.0, float(value.detach()) * (1 + 1e-12)
        while not float(loss((logs + share * step).log_softmax(0))) <= limit and share > 1e-6:
            share /= 2
        logs = (logs + share * step).log_softmax(0)
        if size > before / 2:  # slow: the loss is no regression
            curvature = None
    raise TrainingError(f"{type(objective).__name__} has no minimiser that was found in this game; a larger beta moves the policy less")


def _newton(gradient: Tensor, curvature: Tensor, policy: Tensor) -> Tensor:
    """Return the step of the logits from derivatives by log-probabilities.

    The logit of the commonest response stays, since a constant added to all changes nothing. The others are scaled by the curvature, so
    that rare responses are fitted as exactly as common ones.
    """
    through = torch.eye(len(policy), dtype=policy.dtype) - policy  # d log pi_i / d logit_k, by rows
    others = torch.arange(len(policy)) != policy.argmax()
    through = through[:, others]
    gradient, curvature = through.T @ gradient, through.T @ curvature @ through
    scale = curvature.diagonal().clamp_min(1e-280).rsqrt()
    step = torch.zeros_like(policy)
    step[others] = -scale * torch.linalg.solve(scale[:, None] * curvature * scale, scale * gradient)
    return step
