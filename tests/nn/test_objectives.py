"""Objectives against their published formulas, written out as loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives import (
    CaPOObjective,
    DistillObjective,
    DPOObjective,
    GPOObjective,
    IPOObjective,
    LNGPOObjective,
    NashMDObjective,
    PolicyObjective,
    SPPOObjective,
)

N, K, M = 3, 4, 2


def example(seed: int = 0) -> tuple[Tensor, Judged]:
    """Log-probabilities and a judged batch of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(N, K, K, generator=generator)
    logprobs, reference, initial = -10 + torch.randn(3, N, K, generator=generator)
    lengths = torch.randint(3, 9, (N, K), generator=generator)
    return logprobs, Judged(table - table.mT, torch.randn(N, K, M, generator=generator), reference, initial, lengths)


def of_rewards(rewards: Tensor, reference: Tensor) -> Judged:
    """A batch judged by Bradley-Terry rewards [N, K]."""
    return Judged(
        rewards[..., :, None] - rewards[..., None, :], torch.zeros(*rewards.shape, 0), reference, reference, torch.ones(rewards.shape)
    )


def loss(objective: PolicyObjective, logprobs: Tensor, judged: Judged) -> Tensor:
    """The objective with log-probabilities [N, K] of all responses at hand, of which it sees those that it selects."""
    selected = objective.selected(judged)
    return objective(logprobs.gather(-1, selected), judged, selected)


def test_gpo_as_the_paper_runs_it() -> None:
    """0.5 [(ratio_w - s_w / beta)^2 + (ratio_l - s_l / beta)^2], w and l the best and worst row mean, itself included."""
    logprobs, judged = example()
    expected = []
    for n in range(N):
        means = [sum(float(judged.table[n, i, j]) for j in range(K)) / K for i in range(K)]
        w, l = means.index(max(means)), means.index(min(means))  # noqa: E741
        expected.append(sum((float(logprobs[n, i] - judged.reference[n, i]) - means[i] / 0.001) ** 2 for i in (w, l)) / 2)
    torch.testing.assert_close(loss(GPOObjective(), logprobs, judged), torch.tensor(expected))


def test_sppo_is_the_published_loss() -> None:
    """uclaml/SPPO, trainer.py: ((logits_w - (p_w - 1/2) / beta)^2 + (logits_l - (p_l - 1/2) / beta)^2) / 2."""
    logprobs, judged = example(1)
    beta, expected = 0.001, []
    for n in range(N):
        wins = [sum(1 / (1 + math.exp(-float(judged.table[n, i, j]))) for j in range(K)) / K for i in range(K)]
        w, l = wins.index(max(wins)), wins.index(min(wins))  # noqa: E741
        logits = [float(logprobs[n, i] - judged.reference[n, i]) for i in (w, l)]
        expected.append(((logits[0] - (1 / beta) * (wins[w] - 0.5)) ** 2 + (logits[1] - (1 / beta) * (wins[l] - 0.5)) ** 2) / 2)
    torch.testing.assert_close(loss(SPPOObjective(beta), logprobs, judged), torch.tensor(expected))


def test_gpo_under_a_reward_model_is_reward_regression() -> None:
    """With s_ij = r_i - r_j the mean score is r_i - mean(r): the log-ratio is regressed on the centred reward over beta."""
    logprobs, judged = example(2)
    rewards = torch.randn(N, K, generator=torch.Generator().manual_seed(3))
    bt = of_rewards(rewards, judged.reference)
    expected = ((logprobs - judged.reference - (rewards - rewards.mean(-1, keepdim=True)) / 0.2) ** 2).mean(-1)
    torch.testing.assert_close(loss(GPOObjective(0.2, select="all"), logprobs, bt), expected)


def test_self_comparison_changes_the_divisor_alone() -> None:
    _, judged = example()
    within, without = (GPOObjective(0.1, self_comparison=flag).targets(judged) for flag in (True, False))
    torch.testing.assert_close(within * K / (K - 1), without)


def test_estimated_log_z_normalises() -> None:
    """mean_i exp(target_i) = 1, which is what makes pi_t exp(target) a distribution in expectation."""
    _, judged = example()
    targets = GPOObjective(0.5, log_z="estimated").targets(judged)
    torch.testing.assert_close(targets.exp().mean(-1), torch.ones(N))


@pytest.mark.parametrize(("place", "limit"), [("target", 1000.0), ("score", 0.2)])
def test_the_clamp_has_two_places(place: str, limit: float) -> None:
    _, judged = example()
    scores = judged.table.mean(-1)
    expected = (scores / 0.001).clamp(-limit, limit) if place == "target" else scores.clamp(-limit, limit) / 0.001
    torch.testing.assert_close(GPOObjective(clamp=limit, clamp_at=place).targets(judged), expected)  # type: ignore[arg-type]
    assert (expected.abs() < (scores / 0.001).abs()).any(), "something was clamped"


def test_length_normalised_gpo() -> None:
    logprobs, judged = example()
    ratios = (logprobs - judged.reference) / judged.lengths
    expected = ((ratios - judged.table.mean(-1) / 0.3) ** 2).mean(-1)
    torch.testing.assert_close(loss(LNGPOObjective(0.3, select="all"), logprobs, judged), expected)


def test_nash_md_mixes_opponent_and_anchor() -> None:
    logprobs, judged = example()
    scores = 0.75 * judged.table.mean(-1) + 0.25 * judged.initial_table.mean(-1)
    anchor = 0.75 * judged.reference + 0.25 * judged.initial
    objective = NashMDObjective(0.5, select="all")
    torch.testing.assert_close(loss(objective, logprobs, judged), ((logprobs - anchor - scores / 0.5) ** 2).mean(-1))
    torch.testing.assert_close(loss(objective, anchor + scores / 0.5, judged), torch.zeros(N), atol=1e-9, rtol=0)
    assert objective.needs_initial and objective.needs_opponents
    assert not GPOObjective().needs_initial and not GPOObjective().needs_opponents


def test_dpo_and_ipo_between_the_best_and_the_worst() -> None:
    logprobs, judged = example()
    ratios, means = logprobs - judged.reference, judged.table.mean(-1)
    delta = torch.stack([ratios[n, means[n].argmax()] - ratios[n, means[n].argmin()] for n in range(N)])
    torch.testing.assert_close(loss(DPOObjective(0.3), logprobs, judged), torch.log1p(torch.exp(-0.3 * delta)))
    torch.testing.assert_close(loss(IPOObjective(0.3), logprobs, judged), (delta - 1 / 0.6) ** 2)


@pytest.mark.parametrize("objective", [DPOObjective(), IPOObjective()])
def test_equal_responses_teach_a_pairwise_objective_nothing(objective: PolicyObjective) -> None:
    logprobs, judged = example()
    logprobs.requires_grad_()
    losses = loss(objective, logprobs, of_rewards(torch.ones(N, K), judged.reference))
    losses.sum().backward()
    assert losses.tolist() == [0.0] * N and logprobs.grad is not None and not logprobs.grad.any()


def test_distillation_recovers_rewards_up_to_a_constant() -> None:
    """The loss is 0 at ratio = r / beta + c for any c, and the best fit to a table without rewards is its row means."""
    rewards = torch.tensor([[1.0, -2.0, 0.5]])
    judged = of_rewards(rewards, torch.zeros(1, 3))
    torch.testing.assert_close(loss(DistillObjective(0.5), rewards / 0.5 + 7.0, judged), torch.zeros(1))
    cycle = torch.tensor([[[0.0, 1.0, -2.0], [-1.0, 0.0, 3.0], [2.0, -3.0, 0.0]]])
    judged = Judged(cycle, torch.zeros(1, 3, 0), torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 3))
    ratios = cycle.mean(-1).requires_grad_()
    loss(DistillObjective(1.0), ratios, judged).sum().backward()
    assert ratios.grad is not None
    torch.testing.assert_close(ratios.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)


def of_judges(seed: int = 4) -> tuple[Tensor, Judged]:
    """A batch with tables of three judges on very different scales."""
    logprobs, judged = example(seed)
    tables = torch.randn(N, 3, K, K, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.3, 1.0, 20.0])[:, None, None]
    tables = tables - tables.mT
    return logprobs, Judged(tables.mean(1), judged.initial_table, judged.reference, judged.initial, judged.lengths, tables)


def test_capo_is_the_mean_over_the_pairs_of_the_fronts() -> None:
    logprobs, judged = of_judges()
    beta, expected = 0.3, []
    for n in range(N):
        assert judged.tables is not None
        wins = [
            [sum(1 / (1 + math.exp(-float(t[i, j]))) for j in range(K) if j != i) / (K - 1) for i in range(K)] for t in judged.tables[n]
        ]
        points = list(zip(*wins, strict=True))
        beats = [[all(a >= b for a, b in zip(p, q, strict=True)) and p != q for q in points] for p in points]
        upper = [i for i in range(K) if not any(beats[j][i] for j in range(K))]
        lower = [j for j in range(K) if not any(beats[j])]
        rate, ratio = [sum(p) / 3 for p in points], (logprobs - judged.reference)[n].tolist()
        errors = [(rate[i] - rate[j] - beta * (ratio[i] - ratio[j])) ** 2 for i in upper for j in lower if i != j]
        expected.append(sum(errors) / len(errors))
    torch.testing.assert_close(loss(CaPOObjective(beta), logprobs, judged), torch.tensor(expected))


def test_capo_is_zero_where_log_ratios_are_its_targets() -> None:
    _, judged = of_judges(5)
    for objective in (CaPOObjective(0.2), CaPOObjective(0.2, pairs="best_worst")):
        at = judged.reference + objective.targets(judged) + 3.0  # any constant: log Z cancels
        torch.testing.assert_close(loss(objective, at, judged), torch.zeros(N), atol=1e-10, rtol=0)


def test_capo_with_equal_targets_is_ipo() -> None:
    """One judge who is certain of two responses: the win rates are 1 and 0, and (1 - beta d)^2 = beta^2 (d - 1 / (2 (beta / 2)))^2."""
    table = torch.tensor([[[0.0, 200.0], [-200.0, 0.0]]]).repeat(N, 1, 1)
    logprobs, judged = example(6)
    two = Judged(table, torch.zeros(N, 2, 0), judged.reference[:, :2], judged.initial[:, :2], judged.lengths[:, :2])
    for pairs in ("fronts", "best_worst"):
        found = loss(CaPOObjective(0.3, pairs), logprobs[:, :2], two)
        torch.testing.assert_close(found, 0.3**2 * loss(IPOObjective(0.15), logprobs[:, :2], two))


def test_capo_does_not_ask_how_loud_a_judge_is() -> None:
    """A judge who is certain and ten times louder gives the same loss; the mean of tables is another one."""
    logprobs, judged = of_judges(7)
    assert judged.tables is not None
    loud = 50 * judged.tables.sign()
    once, again = (
        Judged((f * loud).mean(1), judged.initial_table, judged.reference, judged.initial, judged.lengths, f * loud) for f in (1, 10)
    )
    torch.testing.assert_close(loss(CaPOObjective(), logprobs, once), loss(CaPOObjective(), logprobs, again))
    assert not torch.allclose(loss(DistillObjective(), logprobs, once), loss(DistillObjective(), logprobs, again))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GPOObjective(beta=0.0), "beta"),
        (lambda: LNGPOObjective(gamma=-1.0), "gamma"),
        (lambda: GPOObjective(clamp=0.0), "clamp"),
        (lambda: NashMDObjective(opponent=1.5), "opponent"),
        (lambda: NashMDObjective(anchor=-0.1), "anchor"),
    ],
)
def test_values_out_of_range(make: Callable[[], PolicyObjective], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_log_z_of_an_anchor_makes_probabilities() -> None:
    """Three arms, all of them sampled once from a uniform pi_t: the policy that is regressed on, anchor * exp(target), sums to 1."""
    initial = torch.tensor([[0.7, 0.2, 0.1]]).log()
    uniform = torch.full((1, 3), 1 / 3).log()
    judged = Judged(torch.zeros(1, 3, 3), torch.tensor([[[1.0], [-2.0], [0.5]]]), uniform, initial, torch.ones(1, 3))
    for share in (0.0, 0.5, 1.0):
        objective = NashMDObjective(beta=0.5, anchor=share, log_z="estimated")
        anchor = (1 - share) * uniform + share * initial
        torch.testing.assert_close((anchor + objective.targets(judged)).exp().sum(-1), torch.ones(1))
