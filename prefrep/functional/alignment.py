"""Losses of a policy on given responses: DPO and its kin, from log-probabilities and nothing else.

A pair is two responses i, j to a prompt with P(i > j) = p. Log-ratios are log pi / pi_ref of whole responses, in nats. Where a paper knows
only hard labels, p weighs its loss of (i, j) with that of (j, i). The labels `smoothing` assumes flipped are its share in [0, 0.5).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefrep.functional import gpo, losses


def dpo(first: Tensor, second: Tensor, beta: float, probability: Tensor, margin: Tensor | float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Return the logistic loss of beta (log-ratio_i - log-ratio_j), which DPO takes for log-odds (arXiv 2305.18290, eq. 7).

    With smoothing it is conservative DPO, whose labels are (1 - smoothing) p + smoothing (1 - p).

    Args:
        first: Log-ratios of i [P].
        second: Log-ratios of j [P].
        beta: Scale of the log-ratios.
        probability: p [P].
        margin: Log-odds by which the winner should win [P] (arXiv 2402.10571).
        smoothing: See above.
    """
    return losses.logistic(beta * (first - second), probability, margin, smoothing=smoothing)


def robust_dpo(first: Tensor, second: Tensor, beta: float, probability: Tensor, margin: Tensor | float, smoothing: float) -> Tensor:
    """Return robust DPO (arXiv 2403.00409): the DPO loss whose mean over randomly flipped labels is the loss of the true ones.

    ((1 - e) loss(i > j) - e loss(j > i)) / (1 - 2 e) is the logistic loss of the label (p - e) / (1 - 2 e), which can lie outside [0, 1].
    Arguments as in `dpo`.
    """
    return losses.logistic(beta * (first - second), (probability - smoothing) / (1 - 2 * smoothing), margin)


def ipo(first: Tensor, second: Tensor, beta: float, probability: Tensor) -> Tensor:
    """Return IPO (arXiv 2310.12036, eq. 17) of log-ratios [P], least where their difference is (2 p - 1) / (2 beta)."""
    return soft(gpo.ipo(first, second, beta), gpo.ipo(second, first, beta), probability)


def simpo(first: Tensor, second: Tensor, beta: float, gamma: float, probability: Tensor) -> Tensor:
    """Return SimPO (arXiv 2405.14734, eq. 6): the logistic loss of mean log-probabilities per token, without a reference.

    Args:
        first: Mean log pi per token of i [P].
        second: Mean log pi per token of j [P].
        beta: Scale.
        gamma: Log-odds by which the winner should win; TRL and others name gamma / beta.
        probability: p [P].
    """
    return losses.logistic(beta * (first - second), probability, gamma)


def orpo(first: Tensor, second: Tensor, weight: float, probability: Tensor) -> Tensor:
    """Return ORPO (arXiv 2403.07691, eq. 6 and 7): negative log-likelihood of the winner, and the odds ratio of both, without a reference.

    Args:
        first: Mean log pi per token of i [P].
        second: Mean log pi per token of j [P].
        weight: Weight of the odds ratio (lambda).
        probability: p [P].
    """
    ratio = log_odds(first) - log_odds(second)
    return soft(-first - weight * logsigmoid(ratio), -second - weight * logsigmoid(-ratio), probability)


def log_odds(logprobs: Tensor) -> Tensor:
    """Return log(P / (1 - P)) of log P, at most 0; a P that is 1 but for rounding counts as 1 - eps, without a gradient."""
    logprobs = logprobs.clamp_max(-torch.finfo(logprobs.dtype).eps)
    return logprobs - (-torch.expm1(logprobs)).log()


def kto(ratios: Tensor, divergence: Tensor, beta: float, probability: Tensor, desirable: float, undesirable: float) -> Tensor:
    """Return KTO (arXiv 2402.01306, eq. 8) of responses by themselves.

    Args:
        ratios: Log-ratios [P].
        divergence: Estimate of KL(pi, pi_ref), the reference point, in nats; without a gradient.
        beta: Scale.
        probability: P(desirable) [P].
        desirable: Weight of desirable responses.
        undesirable: Weight of undesirable responses.
    """
    moved = beta * (ratios - divergence)
    return soft(desirable * (1 - moved.sigmoid()), undesirable * (1 - (-moved).sigmoid()), probability)


def soft(won: Tensor, lost: Tensor, probability: Tensor) -> Tensor:
    """Return the expected loss under a soft label [P]; a hard label leaves the other loss out, even where that is not finite."""
    return torch.where(probability > 0, probability * won, 0.0) + torch.where(probability < 1, (1 - probability) * lost, 0.0)
