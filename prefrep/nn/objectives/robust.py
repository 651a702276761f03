"""Reward distillation from a family of judges, in its pessimistic form."""

from __future__ import annotations

from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives.base import PolicyObjective


class PessimisticDistillObjective(PolicyObjective):
    """Reward distillation that follows, of a family of reward models, one in which little can be gained (arXiv 2405.19316).

    A policy pi that is optimal for a reward r gains beta KL(pi_t, pi) over pi_t in the regularised objective, rewards taken relative to
    their mean under pi_t. So the worst reward of a family is that whose optimal policy has the smallest forward KL. The loss is the
    smallest distillation error over the judges plus kl KL(pi_t, pi): the policy has to fit one judge, whichever keeps it nearest to pi_t.
    Both the minimum and the KL are those of each prompt's K samples. With one judge and kl 0 this is `DistillObjective`.

    Args:
        beta: Divisor of the scores.
        kl: Weight of the forward KL.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(self, beta: float = 0.1, kl: float = 0.1) -> None:
        super().__init__(beta)
        if not kl >= 0:
            raise ConfigError(f"kl must be 0 or more, got {kl}")
        self.kl = kl

    def errors(self, logprobs: Tensor, judged: Judged) -> Tensor:
        """Return the distillation error of each judge [N, J]."""
        return gpo.pairwise_errors((logprobs - judged.reference)[:, None], judged.by_judge / self.beta)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the loss of each prompt [N]; all K responses are selected."""
        return self.errors(logprobs, judged).amin(-1) + self.kl * (judged.reference - logprobs).mean(-1)
