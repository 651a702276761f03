"""An objective on calibrated win rates of several judges (CaPO)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from prefrep.functional import calibrated, gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives.base import PolicyObjective


class CaPOObjective(PolicyObjective):
    """Calibrated preference optimization: regress differences of log-ratios on differences of calibrated win rates (arXiv 2502.02588).

    The loss of a pair is (c_i - c_j - beta (log-ratio_i - log-ratio_j))^2. c is the mean over judges of the win rate against the K - 1
    others, so no judge counts more because its log-odds are larger, and weights of a `PanelJudge` do not count. With c_i - c_j = 1 it is
    beta^2 times IPO with half the beta. The paper trains diffusion models; here log pi / pi_t stands for their denoising errors, and their
    weights of time steps have no counterpart.

    Args:
        beta: Scale of the log-ratios.
        pairs: `fronts`: the mean over all pairs of a response that no other one dominates with one that dominates no other one, the
            expectation of the paper's random pair. `best_worst`: the highest and the lowest c.
    """

    def __init__(self, beta: float = 0.1, pairs: Literal["fronts", "best_worst"] = "fronts") -> None:
        super().__init__(beta)
        self.pairs = pairs

    def selected(self, judged: Judged) -> Tensor:
        """Return all K, or the best and the worst [N, 2]."""
        return gpo.best_and_worst(self._rates(judged).mean(-2)) if self.pairs == "best_worst" else super().selected(judged)

    def targets(self, judged: Judged) -> Tensor:
        """Return c / beta [N, K]."""
        return self._rates(judged).mean(-2) / self.beta

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the mean loss over the pairs of each prompt [N]."""
        ratios = logprobs - judged.reference.gather(-1, selected)
        rates = self._rates(judged)
        means = rates.mean(-2).gather(-1, selected)
        errors = _differences(means) - self.beta * _differences(ratios)
        if self.pairs == "best_worst":
            return errors[..., 0, 1] ** 2
        chosen = calibrated.front_pairs(rates)
        return (errors**2 * chosen).sum((-1, -2)) / chosen.sum((-1, -2))

    @staticmethod
    def _rates(judged: Judged) -> Tensor:
        """Return the win rates [N, J, K]."""
        return calibrated.win_rates(judged.by_judge)


def _differences(values: Tensor) -> Tensor:
    return values[..., :, None] - values[..., None, :]
