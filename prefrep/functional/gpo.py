"""General preference optimization: from a table of scores among K responses to a loss on the policy's log-probabilities.

In the paper (arXiv 2410.02197, section 5) the policy of round t+1 is pi_t(y) exp(s(y > mu) / beta) / Z, found by regression of the
log-ratio log pi(y) / pi_t(y) on s(y > mu) / beta - log Z. The opponent mu is pi_t, represented by K samples.

Letters: N prompts, J judges, K responses of pi_t to each prompt, M responses of another policy. Scores are log-odds in nats; positive: the
first wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Judged:
    """Judged responses of a round.

    Args:
        table: Scores among the responses of pi_t [N, K, K]; [i, j] is s(i > j).
        initial_table: Scores of these against responses of pi_0 [N, K, M]; M may be 0.
        reference: log pi_t of each response [N, K].
        initial: log pi_0 of each response [N, K]; NaN if it was not computed.
        lengths: Tokens of each response [N, K].
        tables: Scores by judge [N, J, K, K], of which `table` is the weighted mean; None: one judge, whose scores are `table`.
        earlier: log-probabilities of each response under the policy of an earlier round [N, K]; None if no round is referred to.
        earlier_table: Scores of the K responses against responses of that policy [N, K, M]; None if nothing needs them.
    """

    table: Tensor
    initial_table: Tensor
    reference: Tensor
    initial: Tensor
    lengths: Tensor
    tables: Tensor | None = None
    earlier: Tensor | None = None
    earlier_table: Tensor | None = None

    @property
    def by_judge(self) -> Tensor:
        """Scores by judge [N, J, K, K], also of one judge."""
        return self.table[:, None] if self.tables is None else self.tables


def mean_over_opponents(values: Tensor, self_comparison: bool) -> Tensor:
    """Return the mean of each row of a table [.., K, K] over its columns (eq. 5.2), with or without the diagonal.

    The mean in the paper is over K samples of pi_t including the response itself, so it divides by K.

    Returns:
        [.., K].
    """
    if self_comparison:
        return values.mean(-1)
    diagonal = torch.diagonal(values, dim1=-2, dim2=-1)
    return (values.sum(-1) - diagonal) / (values.shape[-1] - 1)


def against_mixture(values: Tensor, initial_values: Tensor, share: float, self_comparison: bool) -> Tensor:
    """Return the mean value of each response against a mixed opponent: pi_0 with probability `share`, else pi_t.

    Args:
        values: Values against responses of pi_t [.., K, K].
        initial_values: Values against responses of pi_0 [.., K, M].
        share: Share of pi_0 in the mixture.
        self_comparison: See `mean_over_opponents`.

    Returns:
        [.., K].
    """
    if share == 0:
        return mean_over_opponents(values, self_comparison)
    against_initial = initial_values.mean(-1)
    if share == 1:
        return against_initial
    return (1 - share) * mean_over_opponents(values, self_comparison) + share * against_initial


def log_partition(exponents: Tensor) -> Tensor:
    """Estimate log Z = log E exp(exponent) over the K samples of pi_t [.., K] -> [.., 1]; the paper sets it to 0."""
    return exponents.logsumexp(-1, keepdim=True) - math.log(exponents.shape[-1])


def squared_errors(log_ratios: Tensor, targets: Tensor, lengths: Tensor, gamma: float = 0.0) -> Tensor:
    """Return (log-ratio / length^gamma - target)^2 (eq. 5.3; gamma > 0: length-normalised GPO).

    Args:
        log_ratios: log pi / pi_t [..].
        targets: Regression targets [..].
        lengths: Tokens of each response [..].
        gamma: Exponent of the length.
    """
    if gamma > 0:
        log_ratios = log_ratios / lengths.clamp_min(1).to(log_ratios.dtype) ** gamma
    return (log_ratios - targets) ** 2


def best_and_worst(scores: Tensor) -> Tensor:
    """Return indices of the highest and lowest of K scores [.., K] -> [.., 2]; among ties, the first is best and the last is worst."""
    count = scores.shape[-1]
    worst = count - 1 - scores.flip(-1).argmin(-1)
    return torch.stack([scores.argmax(-1), worst], dim=-1)


def dpo(best: Tensor, worst: Tensor, beta: float) -> Tensor:
    """Return -log sigmoid(beta (best - worst)) of log-ratios (arXiv 2305.18290, eq. 7)."""
    return -logsigmoid(beta * (best - worst))


def ipo(best: Tensor, worst: Tensor, beta: float) -> Tensor:
    """Return (best - worst - 1 / (2 beta))^2 of log-ratios (arXiv 2310.12036, eq. 17)."""
    return (best - worst - 1 / (2 * beta)) ** 2


def semi_policy(winner: Tensor, loser: Tensor, beta: float) -> Tensor:
    """Return -log sigmoid(beta (winner - sign loser)) of log-ratios log pi / pi_s (arXiv 2410.05255).

    The sign is -1 where the reference pi_s explains the winner better than pi does (winner < 0), else 1; with sign 1 this is DPO, and SPIN
    (arXiv 2401.01335) if pi_s is the last checkpoint.
    """
    sign = torch.where(winner.detach() < 0, -1.0, 1.0)
    return -logsigmoid(beta * (winner - sign * loser))


def divergences(log_ratios: Tensor) -> Tensor:
    """Return pi / pi_t - 1 - log pi / pi_t of samples from pi_t, whose mean estimates KL(pi_t, pi) [..] -> [..].

    The mean of -log pi / pi_t does too. But these terms are never negative, and near pi_t their variance is far smaller, since the mean of
    pi / pi_t - 1 is 0 and its first order cancels theirs (a control variate).
    """
    return log_ratios.expm1() - log_ratios


def pairwise_errors(log_ratios: Tensor, table: Tensor) -> Tensor:
    """Return the mean over i < j of (log-ratio_i - log-ratio_j - table_ij)^2: log-ratios [.., K], table [.., K, K] -> [..].

    With table_ij = (r_i - r_j) / beta this is regression on reward differences (reward model distillation, arXiv 2405.19316; REBEL, arXiv
    2404.16767); log Z cancels.
    """
    first, second = torch.triu_indices(table.shape[-1], table.shape[-1], offset=1, device=table.device)
    differences = log_ratios[..., first] - log_ratios[..., second]
    return ((differences - table[..., first, second]) ** 2).mean(-1)
