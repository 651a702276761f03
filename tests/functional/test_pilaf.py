"""PILAF on bandits: every expectation is exact, so the gradients can be compared without sampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid

from prefrep.errors import ConfigError
from prefrep.functional.pilaf import pair_distribution, plain_share, tilted


def bandit(seed: int, spread: float, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """log pi_ref, log pi and the true rewards of 8 responses; pi is optimal for rewards near the true ones, at beta 1."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    reference = draws[0].log_softmax(0)
    policy = (reference + spread * draws[1]).log_softmax(0)
    return reference, policy, policy - reference + noise * draws[2]


def ascent(policy: Tensor, reference: Tensor, rewards: Tensor) -> Tensor:
    """The gradient of J = E r - KL(pi, pi_ref) in the logits of the policy."""
    logits = policy.clone().requires_grad_()
    logs = logits.log_softmax(0)
    return torch.autograd.grad((logs.exp() * (rewards - logs + reference)).sum(), logits)[0]


def dpo_ascent(policy: Tensor, reference: Tensor, rewards: Tensor, pairs: Tensor) -> Tensor:
    """Minus the gradient of DPO's expected loss on the pairs, whose labels follow the true rewards."""
    logits = policy.clone().requires_grad_()
    ratios = logits.log_softmax(0) - reference
    margins, wins = ratios[:, None] - ratios, (rewards[:, None] - rewards).sigmoid()
    loss = -(pairs * (wins * logsigmoid(margins) + (1 - wins) * logsigmoid(-margins))).sum()
    return -torch.autograd.grad(loss, logits)[0]


def test_tilted_policies_are_the_policy_times_its_implicit_reward() -> None:
    reference, policy, _ = bandit(0, 2.0, 0.0)
    for beta in (0.0, 0.3, 1.0, 2.5):
        rewards = beta * (policy - reference)
        plus, minus = tilted(policy + 3.0, reference - 7.0, beta)  # logits need not be normalised
        expected = policy.exp() * rewards.exp(), policy.exp() * (-rewards).exp()
        torch.testing.assert_close(plus.exp(), expected[0] / expected[0].sum(), atol=1e-14, rtol=0)
        torch.testing.assert_close(minus.exp(), expected[1] / expected[1].sum(), atol=1e-14, rtol=0)
        share = 1 / (1 + expected[0].sum() * expected[1].sum())
        torch.testing.assert_close(plain_share(policy, reference, beta), share)


def test_beta_one_is_the_reference_below_and_the_square_above() -> None:
    """By hand: pi^2 / ref = (.64 / .5, .04 / .5), so 16 to 1."""
    policy, reference = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.5, 0.5]).log()
    plus, minus = tilted(policy, reference, 1.0)
    torch.testing.assert_close(plus.exp(), torch.tensor([16.0, 1.0]) / 17)
    torch.testing.assert_close(minus, reference)


def test_no_tilt_is_plain_sampling() -> None:
    reference, policy, _ = bandit(1, 1.0, 0.0)
    for kind in ("half", "exact"):
        torch.testing.assert_close(pair_distribution(policy, reference, 0.0, kind), pair_distribution(policy, reference, 0.0, "plain"))
    assert float(plain_share(policy, reference, 0.0)) == pytest.approx(0.5)


@pytest.mark.parametrize("reference", [float("-inf"), 0.3])
def test_tokens_that_the_policy_never_draws_stay_undrawn(reference: float) -> None:
    blocked = float("-inf")
    plus, minus = tilted(torch.tensor([0.0, 1.0, blocked]), torch.tensor([1.0, 0.0, reference]), 0.5)
    assert plus[2] == minus[2] == blocked
    torch.testing.assert_close(plus[:2], torch.tensor([-0.5, 1.5]).log_softmax(0))


@pytest.mark.parametrize("spread", [1.0, 2.0, 3.0])
def test_the_exact_mixture_weighs_pairs_by_the_inverse_slope_of_the_sigmoid(spread: float) -> None:
    reference, policy, _ = bandit(2, spread, 0.0)
    rewards, probability = policy - reference, policy.exp()
    slope = (rewards[:, None] - rewards).sigmoid() * (rewards - rewards[:, None]).sigmoid()
    expected = probability[:, None] * probability / slope
    found = pair_distribution(policy, reference, 1.0, "exact")
    torch.testing.assert_close(found, expected / expected.sum())
    for kind in ("plain", "half", "exact"):
        pairs = pair_distribution(policy, reference, 1.0, kind)
        assert float(pairs.sum()) == pytest.approx(1) and torch.equal(pairs, pairs.T)


def test_dpo_on_exact_pairs_climbs_the_true_objective() -> None:
    """Near the oracle (noise .05 against a spread of 3 nats) the gradients are parallel; plain pairs lose up to half of that."""
    found = {kind: [] for kind in ("plain", "half", "exact")}  # type: dict[str, list[float]]
    for seed in range(40):
        reference, policy, rewards = bandit(seed, 3.0, 0.05)
        goal = ascent(policy, reference, rewards)
        for kind, cosines in found.items():
            pairs = pair_distribution(policy, reference, 1.0, kind)  # type: ignore[arg-type]
            cosines.append(float(cosine_similarity(dpo_ascent(policy, reference, rewards, pairs), goal, dim=0)))
    plain, half, exact = (torch.tensor(found[kind]) for kind in ("plain", "half", "exact"))
    assert (exact >= 0.999).double().mean() >= 0.95 and (exact >= plain).double().mean() >= 0.95
    assert plain.min() < 0.9 < half.min() and plain.mean() < half.mean() < exact.mean()


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(ConfigError, match="beta must be 0"):
        tilted(torch.zeros(2), torch.zeros(2), -1.0)
