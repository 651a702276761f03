"""Objectives on pairs of responses to a prompt: the best against the worst (DPO, IPO), or all pairs (reward distillation)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives.base import PolicyObjective


class _BestAgainstWorst(PolicyObjective):
    """Loss of the best and the worst response by mean score; subclasses differ in the formula."""

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def selected(self, judged: Judged) -> Tensor:
        """Return the best and the worst [N, 2]."""
        return gpo.best_and_worst(gpo.mean_over_opponents(judged.table, True))

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the loss of each prompt [N]; 0 if all responses are equally good."""
        ratios = logprobs - judged.reference.gather(-1, selected)
        best, worst = self.scaled(ratios, judged.lengths.gather(-1, selected)).unbind(-1)
        better, worse = gpo.mean_over_opponents(judged.table, True).gather(-1, selected).unbind(-1)
        return torch.where(better > worse, self.formula(best, worst), 0.0)

    def scaled(self, ratios: Tensor, lengths: Tensor) -> Tensor:
        """Return what the formula reads of log-ratios [.., 2] of responses of some tokens [.., 2]."""
        return ratios

    @abstractmethod
    def formula(self, best: Tensor, worst: Tensor) -> Tensor:
        """Return losses [N] from log-ratios of the best and the worst [N]."""


class DPOObjective(_BestAgainstWorst):
    """DPO between the best and the worst response by mean score, against pi_t (arXiv 2305.18290).

    Args:
        beta: Scale of the log-ratios.
    """

    def formula(self, best: Tensor, worst: Tensor) -> Tensor:
        """Return `functional.gpo.dpo`."""
        return gpo.dpo(best, worst, self.beta)


class IPOObjective(_BestAgainstWorst):
    """IPO between the best and the worst response by mean score, against pi_t (arXiv 2310.12036).

    Args:
        beta: The target difference of the log-ratios is 1 / (2 beta).
        per_token: Divide log-ratios by the number of tokens, as TRL's `ipo` does; its beta then means the same here.
    """

    def __init__(self, beta: float = 0.1, per_token: bool = False) -> None:
        super().__init__(beta)
        self.per_token = per_token

    def scaled(self, ratios: Tensor, lengths: Tensor) -> Tensor:  # noqa: D102
        return ratios / lengths.clamp_min(1) if self.per_token else ratios

    def formula(self, best: Tensor, worst: Tensor) -> Tensor:
        """Return `functional.gpo.ipo`."""
        return gpo.ipo(best, worst, self.beta)


class DistillObjective(PolicyObjective):
    """Reward distillation: regress differences of log-ratios on differences of rewards, s(i > j) / beta, over all pairs.

    See arXiv 2405.19316 and, with pi_t as the reference, REBEL (arXiv 2404.16767). If the preference model is not Bradley-Terry, no reward
    has the table as its differences, and the loss finds the closest one.

    Args:
        beta: Divisor of the scores.
    """

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the loss of each prompt [N]; all K responses are selected."""
        return gpo.pairwise_errors(logprobs - judged.reference, judged.table / self.beta)
