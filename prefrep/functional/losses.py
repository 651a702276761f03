"""Losses of scores, one number per comparison; the caller applies weights and averages.

Letters: `P` comparisons. A score s = s(first > second) is in log-odds times tau: the probability that the first wins is sigmoid(s / tau).
`probability` is P(first > second) in the data: 1 for a hard label, 1/2 for a tie, other values for soft labels. Every loss is invariant
under exchange of the responses (s -> -s, probability -> 1 - probability) and computed in fp32 at least.

A margin m is what log-odds should exceed: -log sigmoid(s / tau - m). It is in nats, so margins of a data set have the same meaning for
every head and temperature. (The official code has three meanings: subtracted from the score, squashed to a target 5 sigmoid(m), or
subtracted while the target is dropped.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from prefrep.functional.skew import widen


def logistic(
    scores: Tensor,
    probability: Tensor,
    margin: Tensor | float = 0.0,
    tau: Tensor | float = 1.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy -p log sigmoid(s / tau - m) - (1 - p) log sigmoid(-s / tau - m).

    L_CE of arXiv:2410.02197, appendix A.1, with soft labels (the official code supports hard ones only). Label smoothing assumes that a
    share of the labels is flipped: p becomes (1 - smoothing) p + smoothing (1 - p).

    Args:
        scores: s, [P].
        probability: P(first > second), [P].
        margin: m, [P] or a number, in log-odds.
        tau: Temperature, above 0.
        smoothing: Share of flipped labels, in [0, 0.5).

    Returns:
        [P].

    Example:
        Without a preference in the scores, the loss of a hard label is log 2.

        >>> round(logistic(torch.zeros(1), torch.ones(1)).item(), 4)
        0.6931
    """
    scores, margin = widen(scores), _wide(margin)
    p = _smooth(widen(probability), smoothing)
    return -p * F.logsigmoid(scores / tau - margin) - (1 - p) * F.logsigmoid(-scores / tau - margin)


def regression(
    scores: Tensor,
    probability: Tensor,
    margin: Tensor | float = 0.0,
    tau: Tensor | float = 1.0,
    target: float = 10.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Return half the squared distance from the log-odds of the data, (s / tau - t)^2 / 2 with t = log(p / (1 - p)).

    t is clamped to [-target, target]. This is L_MSE of arXiv:2410.02197, appendix A.1, with s_D = t. The paper has no factor 1/2; the
    official code has it, with the constant 10 for s_D. Here a hard label gives +-target, so the default is the official loss, including the
    factor. A margin moves the target away from 0, t + sign(t) m, which is s / tau - m for the response that wins.

    Args:
        scores: s, [P].
        probability: P(first > second), [P].
        margin: m, [P] or a number, in log-odds.
        tau: Temperature, above 0.
        target: Log-odds of a hard label.
        smoothing: Share of flipped labels, in [0, 0.5).

    Returns:
        [P].
    """
    scores, margin = widen(scores), _wide(margin)
    log_odds = torch.logit(_smooth(widen(probability), smoothing)).clamp(-target, target)
    return 0.5 * (scores / tau - (log_odds + log_odds.sign() * margin)).square()


def hinge(
    scores: Tensor,
    probability: Tensor,
    margin: Tensor | float = 0.0,
    tau: Tensor | float = 1.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the hinge loss p relu(1 + m - s / tau) + (1 - p) relu(1 + m + s / tau), 0 from log-odds of 1 + m on.

    It is not in the paper. Soft labels are as in `logistic`.

    Args:
        scores: s, [P].
        probability: P(first > second), [P].
        margin: m, [P] or a number, in log-odds.
        tau: Temperature, above 0.
        smoothing: Share of flipped labels, in [0, 0.5).

    Returns:
        [P].
    """
    scores, margin = widen(scores), _wide(margin)
    p = _smooth(widen(probability), smoothing)
    return p * F.relu(1 + margin - scores / tau) + (1 - p) * F.relu(1 + margin + scores / tau)


def centre(rewards: Tensor) -> Tensor:
    """Return the centring term of Bradley-Terry rewards, (2 mean_k r_k)^2; with two responses (r_c + r_r)^2, as in arXiv:2312.09244.

    Comparisons determine differences of rewards alone; this term pulls their mean to 0.

    Args:
        rewards: Rewards of the K responses to each prompt, [.., K].

    Returns:
        [..].
    """
    return (2 * widen(rewards).mean(-1)).square()


def _smooth(probability: Tensor, smoothing: float) -> Tensor:
    return (1 - smoothing) * probability + smoothing * (1 - probability)


def _wide(margin: Tensor | float) -> Tensor | float:
    return widen(margin) if isinstance(margin, Tensor) else margin
