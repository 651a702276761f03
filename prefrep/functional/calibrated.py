"""Calibrated win rates of several judges, and the pairs of responses that they agree or trade off on (CaPO, arXiv 2502.02588).

Rewards of different judges have no common scale; the rate at which a response wins against others of the same policy has one. A response
dominates another if no judge gives it a lower rate and one gives it a higher rate.

Letters: J judges, K responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefrep.functional.gpo import mean_over_opponents


def win_rates(tables: Tensor) -> Tensor:
    """Return the expected win rate of each response against the K - 1 others, for each judge: log-odds [.., J, K, K] -> [.., J, K].

    Under a reward model this is mean_{j != i} sigmoid(r_i - r_j), the paper's R_ca; log-odds of any other judge serve as well. The mean
    over i is 1/2.
    """
    return mean_over_opponents(tables.sigmoid(), False)


def undominated(rates: Tensor) -> Tensor:
    """Return the upper front, the responses that no other one dominates: [.., J, K] -> [.., K], booleans.

    `undominated(-rates)` is the lower front, the responses that dominate no other one.
    """
    above, below = rates[..., :, None], rates[..., None, :]  # [.., J, i, j]
    dominates = (above >= below).all(-3) & (above > below).any(-3)
    return ~dominates.any(-2)


def front_pairs(rates: Tensor) -> Tensor:
    """Return which pairs (i, j) have i in the upper and j in the lower front: [.., J, K] -> [.., K, K], booleans; two or more responses.

    There is at least one pair, and j never dominates i. The paper draws one of them at random (frontier-based rejection sampling).
    """
    pairs = undominated(rates)[..., :, None] & undominated(-rates)[..., None, :]
    return pairs & ~torch.eye(rates.shape[-1], dtype=torch.bool, device=rates.device)
