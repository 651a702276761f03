"""PILAF: sampling of response pairs from policies that are tilted by their own implicit reward (arXiv 2502.04270).

The implicit reward of a policy pi against a reference is r = beta log(pi / pi_ref). The policy is tilted towards it and away from it,
pi+ = pi e^r / Z+ and pi- = pi e^-r / Z-, where Z+ and Z- are means of e^r and e^-r under pi. In logits h of pi and h_ref of the reference
these are softmax((1 + beta) h - beta h_ref) and softmax((1 - beta) h + beta h_ref).

The gradient of DPO on pairs from mu weighs each pair by sigmoid'(r_i - r_j); the gradient of the true objective does not. They agree for
mu_ij proportional to pi_i pi_j / sigmoid'(r_i - r_j) = pi_i pi_j (2 + e^(r_i - r_j) + e^(r_j - r_i)), which is a mixture of two kinds of
pairs: both from pi, or one from pi+ and one from pi-. The theory holds for labels of a Bradley-Terry model whose rewards are close to the
implicit ones. The functions take whole responses (bandits) or next tokens; over tokens, tilting is an approximation, since the
normaliser of a tilted prefix depends on the prefix.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prefrep.errors import ConfigError


def tilted(logits: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of pi+ and pi-.

    Args:
        logits: Logits or log-probabilities of the policy [.., V]. What it never draws (-inf), no tilted policy draws.
        reference: Logits or log-probabilities of the reference, finite where the policy's are [.., V].
        beta: Scale of the implicit reward, in nats; 0 leaves the policy as it is.

    Returns:
        log pi+ and log pi-, each [.., V].

    Raises:
        ConfigError: beta is negative.
    """
    if not beta >= 0:
        raise ConfigError(f"beta must be 0 (no tilt) or more, got {beta}")
    return tilt(logits, reference, beta).log_softmax(-1), tilt(logits, reference, -beta).log_softmax(-1)


def tilt(logits: Tensor, reference: Tensor, beta: Tensor | float) -> Tensor:
    """Return logits of pi+ (beta above 0) or pi- (below 0); 0 leaves them as they are, to the last bit.

    Args:
        logits: See `tilted`.
        reference: See `tilted`.
        beta: Scale of the implicit reward, in nats, broadcast against the logits.
    """
    return logits + torch.where(logits.isneginf(), 0.0, beta * (logits - reference))  # -inf - -inf has no value


def plain_share(log_policy: Tensor, log_reference: Tensor, beta: float) -> Tensor:
    """Return the probability 1 / (1 + Z+ Z-) with which T-PILAF draws both responses from pi [..].

    Args:
        log_policy: log pi of all responses, normalised [.., K].
        log_reference: log pi_ref of all responses, normalised [.., K].
        beta: Scale of the implicit reward.
    """
    rewards = beta * (log_policy - log_reference)
    return torch.sigmoid(-((log_policy + rewards).logsumexp(-1) + (log_policy - rewards).logsumexp(-1)))


def pair_distribution(log_policy: Tensor, log_reference: Tensor, beta: float, kind: Literal["plain", "half", "exact"]) -> Tensor:
    """Return the probability of each unordered pair, as a symmetric table that sums to 1 [.., K, K].

    Args:
        log_policy: log pi of all responses, normalised [.., K].
        log_reference: log pi_ref of all responses, normalised [.., K].
        beta: Scale of the implicit reward.
        kind: `plain`: both responses from pi. `half`: half of the pairs from pi, half from pi+ and pi- (PILAF). `exact`: the shares of
            `plain_share` (T-PILAF).
    """
    policy = log_policy.exp()
    both = policy[..., :, None] * policy[..., None, :]
    if kind == "plain":
        return both
    plus, minus = (each.exp() for each in tilted(log_policy, log_reference, beta))
    one = plus[..., :, None] * minus[..., None, :]
    share = 0.5 if kind == "half" else plain_share(log_policy, log_reference, beta)[..., None, None]
    return share * both + (1 - share) * (one + one.mT) / 2
