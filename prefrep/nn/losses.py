"""Preference losses as modules: they hold the temperature, fixed or learnt, and see scores only, never a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jsonargparse.typing import extend_base_type
from torch import Tensor, nn

from prefrep.errors import ConfigError
from prefrep.functional import losses
from prefrep.functional.skew import widen


def check_positive(owner: str, value: float) -> None:
    """Refuse a temperature or a target that is not a positive, finite number.

    Args:
        owner: Name of the parameter, for the message.
        value: Its value.

    Raises:
        ConfigError: It is not.
    """
    if not 0 < value < math.inf:
        raise ConfigError(f"{owner} must be a positive number, got {value}")


def check_smoothing(owner: str, value: float) -> None:
    """Refuse a share of flipped labels that leaves nothing to learn.

    Args:
        owner: Name of the parameter, for the message.
        value: Its value.

    Raises:
        ConfigError: It is negative, or 0.5 or more.
    """
    if not 0 <= value < 0.5:
        raise ConfigError(f"{owner} must be at least 0 and below 0.5, got {value}")


# mypy takes this name for True; jsonargparse has to see the restricted types, since it builds losses late (as in prefrep.nn.skew).
MYPY = False
if MYPY:
    Tau = float
    Target = float
    Smoothing = float
else:
    Tau = extend_base_type("Tau", float, lambda _, value: check_positive("tau", float(value)))
    Target = extend_base_type("Target", float, lambda _, value: check_positive("target", float(value)))
    Smoothing = extend_base_type("Smoothing", float, lambda _, value: check_smoothing("smoothing", float(value)))


class PreferenceLoss(nn.Module, ABC):
    """A loss of scores, one number per comparison.

    tau is learnt as its logarithm: it stays positive and its gradient never vanishes (the official code cuts it off at 0.01). As the loss
    is a submodule of the model, the optimizer gets it; leave `log_tau` out of weight decay, which would pull tau towards 1.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        smoothing: Share of labels taken to be flipped, in [0, 0.5).
        learn_tau: Learn the temperature, starting from tau.

    Raises:
        ConfigError: A value is outside its range.
    """

    log_tau: nn.Parameter | None

    def __init__(self, tau: Tau = 1.0, smoothing: Smoothing = 0.0, learn_tau: bool = False) -> None:
        name = type(self).__name__
        check_positive(f"{name}.tau", tau)
        check_smoothing(f"{name}.smoothing", smoothing)
        super().__init__()
        self.smoothing = float(smoothing)
        self._tau = float(tau)
        # One number in a vector, not a scalar: sharded optimizers split parameters along their first axis.
        self.log_tau = nn.Parameter(torch.tensor([math.log(tau)])) if learn_tau else None

    @property
    def temperature(self) -> Tensor | float:
        """Tau as the loss uses it: a tensor with a gradient if it is learnt, else a number."""
        return self._tau if self.log_tau is None else self.log_tau.float().exp().squeeze(0)

    @property
    def tau(self) -> float:
        """Tau as a number, for logs and exported folders."""
        return self._tau if self.log_tau is None else float(self.log_tau.detach().float().exp())

    def log_odds(self, scores: Tensor) -> Tensor:
        """Scores divided by tau, in nats: their sigmoid is P(first > second).

        Args:
            scores: [..].

        Returns:
            [..].
        """
        return widen(scores) / self.temperature

    @abstractmethod
    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:
        """The loss of each comparison; the caller weighs and averages.

        Args:
            scores: Scores of first against second, before tau, [P].
            probability: P(first > second) in the data, [P].
            margin: By how much the log-odds of the winner should lie above 0, [P].

        Returns:
            [P].
        """


class LogisticLoss(PreferenceLoss):
    """Cross entropy with soft labels, margin and label smoothing: `functional.losses.logistic`.

    The default tau of 1 is Bradley-Terry's in the paper (the official trainer passes 0.1 to that model too); general preference models with
    normalised embeddings want 0.1.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        smoothing: Share of labels taken to be flipped, in [0, 0.5).
        learn_tau: Learn the temperature, starting from tau.
    """

    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return losses.logistic(scores, probability, margin, self.temperature, self.smoothing)


class RegressionLoss(PreferenceLoss):
    """Half the squared distance from the data's log-odds: `functional.losses.regression`.

    The paper's L_MSE has no factor 1/2, the official code has it: here it is there, so numbers equal the official ones.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        target: Log-odds that stand for a hard label; soft labels are held within it. 10 in the official code.
        smoothing: Share of labels taken to be flipped, in [0, 0.5).
        learn_tau: Learn the temperature, starting from tau.

    Raises:
        ConfigError: A value is outside its range.
    """

    def __init__(self, tau: Tau = 1.0, target: Target = 10.0, smoothing: Smoothing = 0.0, learn_tau: bool = False) -> None:
        check_positive("RegressionLoss.target", target)
        super().__init__(tau, smoothing, learn_tau)
        self.target = float(target)

    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return losses.regression(scores, probability, margin, self.temperature, self.target, self.smoothing)


class HingeLoss(PreferenceLoss):
    """Hinge at log-odds of 1, with soft labels and margin: `functional.losses.hinge`.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        smoothing: Share of labels taken to be flipped, in [0, 0.5).
        learn_tau: Learn the temperature, starting from tau.
    """

    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return losses.hinge(scores, probability, margin, self.temperature, self.smoothing)
