"""Self-play against earlier rounds: a replayed reference and the sign rule of semi-policy preference optimization."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives.base import PolicyObjective


class SemiPolicyObjective(PolicyObjective):
    """Semi-policy preference optimization (SePPO, arXiv 2410.05255), its text side: -log sigmoid(beta (D(best) - sign D(worst))).

    D is log pi / pi_s, and s is drawn uniformly from the rounds so far, this one included. The sign is -1 where pi_s gives the best
    response more probability than the policy in training, so that both responses are raised, and 1 elsewhere. The paper's winners are data
    and its losers are responses of pi_s; here both are responses of pi_t. No benefit was found: in a tabular test the sign rule did
    slightly worse than raising both always.

    Args:
        beta: Scale of the log-ratios.
        seed: Seed of the replayed rounds.
    """

    def __init__(self, beta: float = 0.1, seed: int = 0) -> None:
        super().__init__(beta)
        self.seed = seed

    def earlier(self, number: int) -> int:
        """Return the round that is replayed."""
        return int(np.random.default_rng([self.seed, number]).integers(number + 1))

    def selected(self, judged: Judged) -> Tensor:
        """Return the best and the worst [N, 2]."""
        return gpo.best_and_worst(gpo.mean_over_opponents(judged.table, True))

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the loss of each prompt [N]; 0 if all responses are equally good."""
        assert judged.earlier is not None, "the batch holds log-probabilities under the replayed policy"
        best, worst = (logprobs - judged.earlier.gather(-1, selected)).unbind(-1)
        better, worse = gpo.mean_over_opponents(judged.table, True).gather(-1, selected).unbind(-1)
        return torch.where(better > worse, gpo.semi_policy(best, worst, self.beta), 0.0)
