"""What every policy objective is: from log-probabilities of judged responses to one loss per prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.parts import Part


class PolicyObjective(Part, ABC):
    """Loss of a policy on the judged responses of a round.

    Args:
        beta: Strength of the pull towards the reference; a larger beta moves the policy less.

    Raises:
        ConfigError: beta is not positive.
    """

    beta: float

    def __init__(self, beta: float) -> None:
        if not beta > 0:
            raise ConfigError(f"beta must be positive, got {beta}")
        self.beta = beta

    @property
    def needs_opponents(self) -> bool:
        """Whether the loss needs scores against responses of pi_0."""
        return False

    @property
    def needs_initial(self) -> bool:
        """Whether the loss needs log pi_0 of the responses."""
        return False

    def earlier(self, number: int) -> int | None:
        """Return the round whose policy the loss of round `number` refers to beside pi_t, at most `number`; None: never any.

        Its log-probabilities are `Judged.earlier`. If there is one, every round keeps a copy of the trainable weights (`modules.earlier`).
        """
        return None

    @property
    def needs_earlier_responses(self) -> bool:
        """Whether the loss needs scores against responses of the earlier round's policy (`Judged.earlier_table`)."""
        return False

    def selected(self, judged: Judged) -> Tensor:
        """Return the indices of the responses whose log pi enters the loss [N, S]; the policy reads no others. By default all K."""
        count, width = judged.reference.shape
        return torch.arange(width, device=judged.reference.device).expand(count, width)

    @abstractmethod
    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the loss of each prompt.

        Args:
            logprobs: log pi of the selected responses [N, S], with a gradient.
            judged: Scores and reference log-probabilities of all K responses.
            selected: Result of `selected` [N, S]. It is not recomputed, since a near tie may fall the other way on another device.

        Returns:
            [N].
        """

    def targets(self, judged: Judged) -> Tensor:
        """Return the quality of each response, higher is better [N, K]; for regressions, the targets of the log-ratios."""
        return gpo.mean_over_opponents(judged.table, True) / self.beta
