"""Objectives that look for a Nash policy by mirror descent: INPO, optimistic, extragradient, and magnetic updates.

A policy p wins against q with probability P(p > q); the Nash policy loses to none. One step of mirror descent in the game with the penalty
tau KL(pi, magnet) moves from a policy c (the centre) to

    pi'(y) proportional to c(y)^(1 - tau / beta) magnet(y)^(tau / beta) exp(gain(y) / beta),

and the objectives differ in the centre, the magnet and the gains. Each is a regression of differences of log-ratios on differences of
gains between all pairs of responses, from which the normaliser cancels; over all responses its minimiser is pi'.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives.base import PolicyObjective


class _MirrorDescent(PolicyObjective):
    """A step of mirror descent; subclasses say where it starts, what pulls, and what is gained."""

    def __init__(self, beta: float, tau: float) -> None:
        super().__init__(beta)
        if not 0 <= tau <= beta:
            raise ConfigError(f"tau must be between 0 (no pull) and beta, got {tau} with beta {beta}")
        self.tau = tau

    @property
    def needs_initial(self) -> bool:
        """Whether pi_0 is the magnet."""
        return self.tau > 0

    def values(self, table: Tensor) -> Tensor:
        """Return P(first wins) - 1/2, which is averaged over opponents."""
        return table.sigmoid() - 0.5

    def centre(self, judged: Judged) -> Tensor:
        """Return log-probabilities of the responses under the policy where the step starts [N, K]."""
        return judged.reference

    def magnet(self, judged: Judged) -> Tensor:
        """Return log-probabilities of the responses under the magnet [N, K]."""
        return judged.initial

    @abstractmethod
    def gains(self, judged: Judged) -> Tensor:
        """Return what each response gains over a tie [N, K]."""

    def targets(self, judged: Judged) -> Tensor:
        """Return gains / beta [N, K]; only differences count."""
        return self.gains(judged) / self.beta

    def ratios(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return log pi - log anchor of the selected responses [N, S]."""
        anchor = self.centre(judged)
        if self.tau > 0:
            anchor = (1 - self.tau / self.beta) * anchor + self.tau / self.beta * self.magnet(judged)
        return logprobs - anchor.gather(-1, selected)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the mean squared error over pairs of the selected responses [N]."""
        targets = self.targets(judged).gather(-1, selected)
        return gpo.pairwise_errors(self.ratios(logprobs, judged, selected), targets[..., :, None] - targets[..., None, :])

    def _against_own(self, judged: Judged) -> Tensor:
        return gpo.mean_over_opponents(self.values(judged.table), True)


class INPOObjective(_MirrorDescent):
    """Iterative Nash policy optimization (arXiv 2407.00617): mirror descent from pi_t with pi_0 as a fixed magnet.

    For tau > 0 the rounds lead to the Nash policy of the game with the penalty; for tau = 0 only their average leads to a Nash policy.

    Args:
        beta: Divisor of the win rates; the paper's eta.
        tau: Strength of the penalty, the paper's tau; at most beta.
        select: `all`: all pairs, with win rates in place of sampled labels, which leaves the minimiser as it is and removes their noise.
            `best_worst`: the best against the worst response with the difference 1 / (2 beta), as in the paper's experiments.
    """

    def __init__(self, beta: float = 0.1, tau: float = 0.03, select: Literal["all", "best_worst"] = "all") -> None:
        super().__init__(beta, tau)
        self.select = select

    def gains(self, judged: Judged) -> Tensor:
        """Return mean win rates against pi_t - 1/2."""
        return self._against_own(judged)

    def selected(self, judged: Judged) -> Tensor:
        """Return all K, or the best and the worst [N, 2]."""
        return gpo.best_and_worst(self.gains(judged)) if self.select == "best_worst" else super().selected(judged)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the loss of each prompt [N]; of the best and the worst, 0 if all responses are equally good."""
        if self.select == "all":
            return super().__call__(logprobs, judged, selected)
        best, worst = self.ratios(logprobs, judged, selected).unbind(-1)
        better, worse = self.gains(judged).gather(-1, selected).unbind(-1)
        return torch.where(better > worse, gpo.ipo(best, worst, self.beta), 0.0)


class OptimisticObjective(_MirrorDescent):
    """Optimistic mirror descent (arXiv 2502.16852): gains against pi_t count twice, those against pi_{t-1} once with a minus.

    The difference foresees the next opponent. In round 0, pi_{t-1} is pi_0 and the step is a plain one.

    Args:
        beta: Divisor of the win rates.
        tau: Strength of the pull towards pi_0; at most beta.
    """

    def __init__(self, beta: float = 0.1, tau: float = 0.0) -> None:
        super().__init__(beta, tau)

    def earlier(self, number: int) -> int:
        """Return the round before; round 0 in round 0."""
        return max(number - 1, 0)

    @property
    def needs_earlier_responses(self) -> bool:
        """True: pi_{t-1} is an opponent."""
        return True

    def gains(self, judged: Judged) -> Tensor:
        """Return twice the mean win rates against pi_t, less those against pi_{t-1}."""
        return 2 * self._against_own(judged) - self.values(_known(judged.earlier_table)).mean(-1)


class ExtragradientObjective(_MirrorDescent):
    """Extragradient updates (EGPO, arXiv 2503.08942): a trial step, then a step from the same policy with the gains of the trial.

    A step takes two rounds. Even rounds go from pi_t to the trial policy. Odd rounds sample from the trial policy, which is the opponent,
    and go from pi_{t-1}, where the trial began; what counts as the result is the policy after an odd round.

    Args:
        beta: Divisor of the win rates; 1 / eta in the paper.
        tau: Strength of the pull towards pi_0, the paper's beta; at most beta.
    """

    def __init__(self, beta: float = 0.1, tau: float = 0.0) -> None:
        super().__init__(beta, tau)

    def earlier(self, number: int) -> int:
        """Return the round where the step began."""
        return number - number % 2

    def centre(self, judged: Judged) -> Tensor:
        """Return log-probabilities under the policy of the even round [N, K]."""
        return _known(judged.earlier)

    def gains(self, judged: Judged) -> Tensor:
        """Return mean win rates against the sampled policy - 1/2."""
        return self._against_own(judged)


class MagneticObjective(_MirrorDescent):
    """Mirror descent with a magnet that moves to the current policy every so many rounds (MPO, arXiv 2410.16714).

    With a magnet at rest the rounds converge to the Nash policy of the game with the penalty, and moving it takes that to a Nash policy of
    the game itself. In terms of magnetic mirror descent with step size eta and magnet strength alpha, beta is 1 / eta + alpha and tau is
    alpha.

    Args:
        beta: Divisor of the win rates.
        tau: Strength of the pull towards the magnet; at most beta.
        every: Rounds after which the magnet moves.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(self, beta: float = 0.1, tau: float = 0.03, every: int = 4) -> None:
        super().__init__(beta, tau)
        if every < 1:
            raise ConfigError(f"every must be 1 round or more, got {every}")
        self.every = every

    @property
    def needs_initial(self) -> bool:
        """False: the magnet is an earlier policy."""
        return False

    def earlier(self, number: int) -> int:
        """Return the round whose policy is the magnet."""
        return number - number % self.every

    def magnet(self, judged: Judged) -> Tensor:
        """Return log-probabilities under the magnet [N, K]."""
        return _known(judged.earlier)

    def gains(self, judged: Judged) -> Tensor:
        """Return mean win rates against pi_t - 1/2."""
        return self._against_own(judged)


def _known(values: Tensor | None) -> Tensor:
    assert values is not None, "the batch holds what the objective refers to in earlier rounds"
    return values
