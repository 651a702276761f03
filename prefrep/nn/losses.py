"""Preference losses as modules: they hold the temperature, fixed or learned, and receive scores, never a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jsonargparse.typing import extend_base_type
from torch import Tensor, nn

from prefrep.errors import ConfigError
from prefrep.functional import losses
from prefrep.functional.skew import widen
from prefrep.parts import Part


def check_positive(owner: str, value: float) -> None:
    """Check that a temperature or target is positive and finite.

    Args:
        owner: Name of the parameter, for the message.
        value: Its value.

    Raises:
        ConfigError: The value is not.
    """
    if not 0 < value < math.inf:
        raise ConfigError(f"{owner} must be a positive number, got {value}")


def check_smoothing(owner: str, value: float) -> None:
    """Check that a share of flipped labels is in [0, 0.5).

    Args:
        owner: Name of the parameter, for the message.
        value: Its value.

    Raises:
        ConfigError: The value is outside.
    """
    if not 0 <= value < 0.5:
        raise ConfigError(f"{owner} must be at least 0 and below 0.5, got {value}")


# mypy evaluates this name as True; jsonargparse must see the restricted types, since it instantiates losses late (as in prefrep.nn.skew).
MYPY = False
if MYPY:
    Tau = float
    Target = float
    Smoothing = float
else:
    Tau = extend_base_type("Tau", float, lambda _, value: check_positive("tau", float(value)))
    Target = extend_base_type("Target", float, lambda _, value: check_positive("target", float(value)))
    Smoothing = extend_base_type("Smoothing", float, lambda _, value: check_smoothing("smoothing", float(value)))


class PreferenceLoss(Part, nn.Module, ABC):
    """Loss of scores, one number per comparison.

    A learned tau is stored as its logarithm: it stays positive and its gradient does not vanish (the official code clamps tau at 0.01). The
    loss is a submodule of the model, so the optimizer updates it; exclude `log_tau` from weight decay, which would pull tau towards 1.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        smoothing: Assumed share of flipped labels, in [0, 0.5).
        learn_tau: Train the temperature, starting from tau.

    Raises:
        ConfigError: A value is outside its range.
    """

    pointwise: ClassVar[bool] = False  # whether it judges each response alone; the model then passes rewards, with P that the response won
    needs_reward: ClassVar[bool] = False  # whether models that only compare cannot be trained with it
    log_tau: nn.Parameter | None

    def __init__(self, tau: Tau = 1.0, smoothing: Smoothing = 0.0, learn_tau: bool = False) -> None:
        name = type(self).__name__
        check_positive(f"{name}.tau", tau)
        check_smoothing(f"{name}.smoothing", smoothing)
        super().__init__()
        self.smoothing = float(smoothing)
        self._tau = float(tau)
        # A vector of one number, not a scalar: sharded optimizers split parameters along their first axis.
        self.log_tau = nn.Parameter(torch.tensor([math.log(tau)])) if learn_tau else None

    @property
    def temperature(self) -> Tensor | float:
        """Tau in the loss: a tensor with a gradient if it is learned, else a number."""
        return self._tau if self.log_tau is None else self.log_tau.float().exp().squeeze(0)

    @property
    def tau(self) -> float:
        """Tau as a number, for logs and exported folders."""
        return self._tau if self.log_tau is None else float(self.log_tau.detach().float().exp())

    @torch.no_grad()
    def start_at(self, tau: float) -> None:
        """Set the temperature; a learned one goes on from there.

        Args:
            tau: Above 0.

        Raises:
            ConfigError: It is not.
        """
        check_positive(f"{type(self).__name__}.tau", tau)
        self._tau = float(tau)
        if self.log_tau is not None:
            self.log_tau.fill_(math.log(tau))

    def log_odds(self, scores: Tensor) -> Tensor:
        """Return scores divided by tau, in nats; their sigmoid is P(first > second).

        Args:
            scores: [..].

        Returns:
            [..].
        """
        return widen(scores) / self.temperature

    def alone(self, rewards: Tensor, probability: Tensor, margin: Tensor) -> Tensor:
        """Return the loss of labels of single responses [P]; arguments as in `forward`, the other response being nobody, of reward 0."""
        found: Tensor = self(rewards, probability, margin)
        return found

    @abstractmethod
    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:
        """Return the loss of each comparison; the caller applies weights and averages.

        Args:
            scores: Scores of first against second, before tau, [P].
            probability: P(first > second) in the data, [P].
            margin: How far the log-odds of the winner should exceed 0, [P].

        Returns:
            [P].
        """


class LogisticLoss(PreferenceLoss):
    """Cross entropy with soft labels, margin and label smoothing: `functional.losses.logistic`.

    The default tau of 1 is that of Bradley-Terry in the paper (the official trainer passes 0.1 there, too); general preference models with
    normalised embeddings need 0.1.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        smoothing: Assumed share of flipped labels, in [0, 0.5).
        learn_tau: Train the temperature, starting from tau.
    """

    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return losses.logistic(scores, probability, margin, self.temperature, self.smoothing)


class PointwiseLoss(LogisticLoss):
    """Won or lost, each response alone: the mean of -log sigmoid(r_w / tau) and -log sigmoid(-r_l / tau) (arXiv:2411.04991, the loss CLF).

    It keeps the order of the rewards, needs no pairs on one prompt, and is for models with a reward: others only compare, and refuse it. On
    data that Bradley-Terry describes well, it is no better than `LogisticLoss` (benchmarks/notes/labels_2026-11-29.md).

    Args:
        tau: Temperature, above 0: the log-odds that a response wins are reward / tau.
        smoothing: Assumed share of flipped labels, in [0, 0.5).
        learn_tau: Train the temperature, starting from tau.
    """

    pointwise = needs_reward = True


class ValueLoss(PreferenceLoss):
    """Values of steps (Step-level value preference, arXiv:2406.10858): squared error to Q, and a hinge at the margin of pairs.

    A step alone: (sigmoid(r / tau) - Q)^2. Pairs: relu(m - (r_a - r_b) / tau), times `pairs`, with m from the data. The format `steps` has
    m = 4 (Q_a - Q_b), which exact values satisfy, so that they have no loss. The paper names both terms; how they are weighed is ours. For
    models with a reward: others only compare, and refuse it.

    Args:
        tau: Temperature, above 0: the log-odds of a value are reward / tau.
        pairs: Weight of the pairs, 0 or more.
        learn_tau: Train the temperature, starting from tau.

    Raises:
        ConfigError: A value is outside its range.
    """

    needs_reward = True

    def __init__(self, tau: Tau = 1.0, pairs: float = 1.0, learn_tau: bool = False) -> None:
        if not 0 <= pairs < math.inf:
            raise ConfigError(f"ValueLoss.pairs must be 0 or more, got {pairs}")
        super().__init__(tau, learn_tau=learn_tau)
        self.pairs = float(pairs)

    def alone(self, rewards: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return (self.log_odds(rewards).sigmoid() - widen(probability)).square()

    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return self.pairs * losses.hinge(scores, probability, margin - 1, self.temperature)


class RegressionLoss(PreferenceLoss):
    """Half the squared distance from the data's log-odds: `functional.losses.regression`.

    The factor 1/2, which L_MSE of the paper lacks, is that of the official code.

    Args:
        tau: Temperature, above 0: log-odds are scores / tau.
        target: Log-odds of a hard label; soft labels are clamped to it. 10 in the official code.
        smoothing: Assumed share of flipped labels, in [0, 0.5).
        learn_tau: Train the temperature, starting from tau.

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
        smoothing: Assumed share of flipped labels, in [0, 0.5).
        learn_tau: Train the temperature, starting from tau.
    """

    def forward(self, scores: Tensor, probability: Tensor, margin: Tensor) -> Tensor:  # noqa: D102
        return losses.hinge(scores, probability, margin, self.temperature, self.smoothing)
