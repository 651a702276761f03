"""Losses of policies on preference data, without sampling: DPO, conservative and robust DPO, IPO, SimPO, ORPO, KTO.

A loss reads log-probabilities of whole responses under the policy and, where it needs one, a reference that does not change. Letters: P
pairs. Formulas stand in `functional.alignment`; where TRL counts otherwise, a docstring says how to get the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import alignment
from prefrep.nn.losses import check_positive, check_smoothing
from prefrep.parts import Part


class Responses(NamedTuple):
    """What is known of responses, [P] each.

    Args:
        logprobs: log pi of the whole response in nats, with a gradient.
        reference: log pi_ref; NaN without a reference.
        lengths: Number of its tokens.
    """

    logprobs: Tensor
    reference: Tensor
    lengths: Tensor

    @property
    def ratios(self) -> Tensor:
        """Log pi / pi_ref."""
        return self.logprobs - self.reference

    @property
    def means(self) -> Tensor:
        """Log pi per token."""
        return self.logprobs / self.lengths.clamp_min(1)


class AlignmentLoss(Part, ABC):
    """Loss of pairs of given responses.

    Args:
        beta: Scale of the implicit reward.

    Raises:
        ConfigError: A value is outside its range.
    """

    needs_reference: ClassVar[bool] = True  # whether it reads log pi_ref
    unpaired: ClassVar[bool] = False  # whether it learns from labels of single responses, too
    takes_margin: ClassVar[bool] = False  # whether margins of the data mean something to it
    needs_divergence: ClassVar[bool] = False  # whether it reads an estimate of KL(pi, pi_ref), from responses to other prompts

    def __init__(self, beta: float) -> None:
        check_positive(f"{type(self).__name__}.beta", beta)
        self.beta = float(beta)

    def reward(self, responses: Responses) -> Tensor:
        """Return the implicit rewards [P], whose differences are the log-odds that the loss sees."""
        return self.beta * responses.ratios

    @abstractmethod
    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return the loss of each pair [P].

        Args:
            first: The first responses.
            second: The second ones.
            probability: P(first > second) [P].
            margin: Margins in log-odds [P].
            divergence: Estimate of KL(pi, pi_ref) in nats, 0 or more, without a gradient; 0 unless `needs_divergence`.
        """


class DPOLoss(AlignmentLoss):
    """Direct preference optimization (arXiv 2305.18290); with smoothing, its conservative form (cDPO).

    TRL's `sigmoid`. Soft labels and margins of the data count.

    Args:
        beta: Scale of the log-ratios; a larger beta keeps the policy nearer to the reference.
        smoothing: Assumed share of flipped labels, in [0, 0.5).
    """

    takes_margin = True

    def __init__(self, beta: float = 0.1, smoothing: float = 0.0) -> None:
        super().__init__(beta)
        check_smoothing("DPOLoss.smoothing", smoothing)
        self.smoothing = float(smoothing)

    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return `functional.alignment.dpo` [P]."""
        return alignment.dpo(first.ratios, second.ratios, self.beta, probability, margin, self.smoothing)


class RobustDPOLoss(AlignmentLoss):
    """Robust DPO (arXiv 2403.00409): unbiased where a known share of the labels is flipped. TRL's `robust`.

    Args:
        beta: See `DPOLoss`.
        flipped: Share of flipped labels, in [0, 0.5); TRL's `label_smoothing`.
    """

    takes_margin = True

    def __init__(self, beta: float = 0.1, flipped: float = 0.1) -> None:
        super().__init__(beta)
        check_smoothing("RobustDPOLoss.flipped", flipped)
        self.flipped = float(flipped)

    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return `functional.alignment.robust_dpo` [P]."""
        return alignment.robust_dpo(first.ratios, second.ratios, self.beta, probability, margin, self.flipped)


class IPOLoss(AlignmentLoss):
    """IPO (arXiv 2310.12036): differences of log-ratios are regressed on (2 p - 1) / (2 beta).

    Args:
        beta: The paper's tau.
        per_token: Divide log-ratios by the number of tokens, as TRL's `ipo` does: its beta then means the same here. Without it a beta for
            responses of n tokens is about TRL's divided by n.
    """

    def __init__(self, beta: float = 0.1, per_token: bool = False) -> None:
        super().__init__(beta)
        self.per_token = per_token

    def _ratios(self, responses: Responses) -> Tensor:
        return responses.ratios / responses.lengths.clamp_min(1) if self.per_token else responses.ratios

    def reward(self, responses: Responses) -> Tensor:  # noqa: D102
        return self.beta * self._ratios(responses)

    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return `functional.alignment.ipo` [P]."""
        return alignment.ipo(self._ratios(first), self._ratios(second), self.beta, probability)


class SimPOLoss(AlignmentLoss):
    """SimPO (arXiv 2405.14734): log-probabilities per token, and no reference.

    TRL's `simpo` (its CPO trainer with cpo_alpha 0).

    Args:
        scale: The paper's beta, 2 to 10; under a name of its own, since that of other losses is near 0.1.
        gamma: Log-odds by which the preferred response should win.
    """

    needs_reference = False

    def __init__(self, scale: float = 2.0, gamma: float = 0.5) -> None:
        super().__init__(scale)
        if gamma < 0:
            raise ConfigError(f"SimPOLoss.gamma must be 0 or more, got {gamma}")
        self.scale, self.gamma = float(scale), float(gamma)

    def reward(self, responses: Responses) -> Tensor:  # noqa: D102
        return self.scale * responses.means

    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return `functional.alignment.simpo` [P]."""
        return alignment.simpo(first.means, second.means, self.scale, self.gamma, probability)


class ORPOLoss(AlignmentLoss):
    """ORPO (arXiv 2403.07691): likelihood of the preferred response and an odds ratio at once, without a reference.

    TRL's likelihood term also counts the tokens of the prompt, and is a mean over tokens, not over responses.

    Args:
        weight: Weight of the odds ratio (the paper's lambda, TRL's beta).
    """

    needs_reference = False

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__(weight)
        self.weight = float(weight)

    def reward(self, responses: Responses) -> Tensor:
        """Return the log-odds of a token, whose differences are the odds ratio [P]."""
        return alignment.log_odds(responses.means)

    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return `functional.alignment.orpo` [P]."""
        return alignment.orpo(first.means, second.means, self.weight, probability)


class KTOLoss(AlignmentLoss):
    """KTO (arXiv 2402.01306): each response by itself is desirable or not; pairs count as one of each, as do labels yes or no.

    The reference point, KL(pi, pi_ref), is estimated from responses to other prompts; each prompt is read with one of them. It is 0 or more
    and a mean over the batch.

    Args:
        beta: See `DPOLoss`.
        desirable: Weight of desirable responses.
        undesirable: Weight of undesirable ones.
    """

    unpaired = True
    needs_divergence = True

    def __init__(self, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> None:
        super().__init__(beta)
        check_positive("KTOLoss.desirable", desirable)
        check_positive("KTOLoss.undesirable", undesirable)
        self.desirable, self.undesirable = float(desirable), float(undesirable)

    def __call__(self, first: Responses, second: Responses, probability: Tensor, margin: Tensor, divergence: Tensor) -> Tensor:
        """Return the mean loss of the responses of each pair [P]; a second response of no tokens is not there."""
        weights = self.desirable, self.undesirable
        a = alignment.kto(first.ratios, divergence, self.beta, probability, *weights)
        b = alignment.kto(second.ratios, divergence, self.beta, 1 - probability, *weights)
        return torch.where(second.lengths > 0, (a + b) / 2, a)
