"""Objectives of a policy: log-probabilities of judged responses in, one loss per prompt out.

Each is a formula of `functional.gpo`; letters as there, and S of the K responses are read. `log_ratios` are log pi / pi_t unless an
anchor says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import gpo
from prefrep.functional.gpo import Judged


class PolicyObjective(ABC):
    """What a policy is taught by the responses of a round.

    Args:
        beta: How strongly the policy is held to its reference; larger moves it less.

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
        """Whether it asks for responses of pi_0 to compare with."""
        return False

    @property
    def needs_initial(self) -> bool:
        """Whether it asks for log pi_0 of the responses."""
        return False

    def selected(self, judged: Judged) -> Tensor:
        """Indices of the responses whose log pi the loss depends on [N, S]; the policy need not read the others. Here all K."""
        count, width = judged.reference.shape
        return torch.arange(width, device=judged.reference.device).expand(count, width)

    @abstractmethod
    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Losses.

        Args:
            logprobs: log pi of the selected responses [N, S], with a gradient.
            judged: What is known of all K responses.
            selected: What `selected` gave for them [N, S]. It is not computed again: on another device a near tie may go the other way.

        Returns:
            [N].
        """

    def targets(self, judged: Judged) -> Tensor:
        """What decides between the responses of a prompt, higher is better [N, K]; regressions: what log-ratios are regressed on."""
        return gpo.mean_over_opponents(judged.table, True) / self.beta


class _Regression(PolicyObjective):
    """Regression of log-ratios on values against an opponent; the values are what subclasses differ in."""

    def __init__(
        self,
        beta: float,
        select: Literal["best_worst", "all"],
        self_comparison: bool,
        log_z: Literal["zero", "estimated"],
        clamp: float | None = None,
        clamp_at: Literal["target", "score"] = "target",
        gamma: float = 0.0,
        opponent: float = 0.0,
        anchor: float = 0.0,
    ) -> None:
        super().__init__(beta)
        if gamma < 0:
            raise ConfigError(f"gamma must be 0 (no length normalisation) or more, got {gamma}")
        if clamp is not None and not clamp > 0:
            raise ConfigError(f"clamp must be positive, or null, got {clamp}")
        if not 0 <= opponent <= 1 or not 0 <= anchor <= 1:
            raise ConfigError(f"opponent and anchor are shares of pi_0 in [0, 1], got {opponent} and {anchor}")
        self.select, self.self_comparison, self.log_z, self.gamma = select, self_comparison, log_z, gamma
        self.clamp, self.clamp_at, self.opponent, self.anchor = clamp, clamp_at, opponent, anchor

    @property
    def needs_opponents(self) -> bool:
        """Whether pi_0 is in the opponent."""
        return self.opponent > 0

    @property
    def needs_initial(self) -> bool:
        """Whether pi_0 is in the anchor."""
        return self.anchor > 0

    def values(self, table: Tensor) -> Tensor:
        """A table of scores as what is averaged over opponents: scores as they are."""
        return table

    def targets(self, judged: Judged) -> Tensor:
        """What log-ratios are regressed on: s / beta - log Z [N, K]."""
        limit = self.clamp if self.clamp is not None else float("inf")
        scores = self._scores(judged)
        if self.clamp_at == "score":
            scores = scores.clamp(-limit, limit)
        targets = scores / self.beta
        if self.log_z == "estimated":
            # The samples are pi_t's, and Z is of the anchor (pi_0 / pi_t)^anchor pi_t: that is their weight.
            weights = self.anchor * (judged.initial - judged.reference) if self.anchor > 0 else 0.0
            targets = targets - gpo.log_partition(targets + weights)
        return targets.clamp(-limit, limit) if self.clamp_at == "target" else targets

    def selected(self, judged: Judged) -> Tensor:
        """The best and the worst [N, 2], or all K; by mean values and not by targets, which a clamp makes equal."""
        return gpo.best_and_worst(self._scores(judged)) if self.select == "best_worst" else super().selected(judged)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Mean squared error over the selected responses [N]."""
        reference = judged.reference
        if self.anchor > 0:
            reference = (1 - self.anchor) * reference + self.anchor * judged.initial
        reference, targets, lengths = (values.gather(-1, selected) for values in (reference, self.targets(judged), judged.lengths))
        return gpo.squared_errors(logprobs - reference, targets, lengths, self.gamma).mean(-1)

    def _scores(self, judged: Judged) -> Tensor:
        """Mean value of each response against the opponent [N, K]."""
        return gpo.against_mixture(self.values(judged.table), self.values(judged.initial_table), self.opponent, self.self_comparison)


class GPOObjective(_Regression):
    """General preference optimization: regress log pi / pi_t on s(y > mu) / beta - log Z (arXiv 2410.02197, eq. 5.3).

    Defaults are the paper's practice: mu is pi_t, its K samples include the response itself, log Z = 0, and only the best and the worst
    response by mean score are regressed. The official data script doubles every score (table - table^T of a skew table); `beta: 0.0005`
    gives its numbers. Its clamp threshold of 1000 is documented nowhere, so both places it may have are offered and none is the default.

    Args:
        beta: Scores are divided by it.
        select: Responses that the loss is taken over.
        self_comparison: Whether a response is among its own opponents, against which it scores 0.
        log_z: `zero`, or estimated as log mean exp(s / beta) over the K samples.
        clamp: Largest absolute target, or score; null: no limit.
        clamp_at: What is clamped: `target` (s / beta - log Z), or `score` (s).
    """

    def __init__(
        self,
        beta: float = 0.001,
        select: Literal["best_worst", "all"] = "best_worst",
        self_comparison: bool = True,
        log_z: Literal["zero", "estimated"] = "zero",
        clamp: float | None = None,
        clamp_at: Literal["target", "score"] = "target",
    ) -> None:
        super().__init__(beta, select, self_comparison, log_z, clamp, clamp_at)


# A class that takes the place of another on the command line keeps every argument that both have, defaults too. What makes the next two
# different are therefore arguments of theirs alone.


class LNGPOObjective(_Regression):
    """Length-normalised GPO: (log pi / pi_t) / |y|^gamma is regressed on s / beta (arXiv 2410.02197 v3, appendix; gamma 1).

    Args:
        beta: See `GPOObjective`.
        gamma: Exponent of the length.
        select: See `GPOObjective`.
        self_comparison: See `GPOObjective`.
        log_z: See `GPOObjective`.
    """

    def __init__(
        self,
        beta: float = 0.001,
        gamma: float = 1.0,
        select: Literal["best_worst", "all"] = "best_worst",
        self_comparison: bool = True,
        log_z: Literal["zero", "estimated"] = "zero",
    ) -> None:
        super().__init__(beta, select, self_comparison, log_z, gamma=gamma)


class NashMDObjective(_Regression):
    """In the manner of Nash-MD (arXiv 2312.00886): opponent and anchor are mixtures of pi_t and pi_0, which pull back towards pi_0.

    There the opponent is the geometric mixture itself; here it is pi_t or pi_0, drawn with the share of each. The anchor, which takes the
    place of pi_t in the log-ratio, is geometric: pi_t^(1-a) pi_0^a.

    Args:
        beta: See `GPOObjective`.
        opponent: Share of pi_0 in the opponent, whose responses `SampleResponses.initial` asks for; 1: pi_0 alone.
        anchor: Share a of pi_0 in the anchor.
        select: See `GPOObjective`.
        self_comparison: See `GPOObjective`.
        log_z: See `GPOObjective`.
    """

    def __init__(
        self,
        beta: float = 0.001,
        opponent: float = 0.25,
        anchor: float = 0.25,
        select: Literal["best_worst", "all"] = "best_worst",
        self_comparison: bool = True,
        log_z: Literal["zero", "estimated"] = "zero",
    ) -> None:
        super().__init__(beta, select, self_comparison, log_z, opponent=opponent, anchor=anchor)


class SPPOObjective(_Regression):
    """Self-play preference optimization: regress log pi / pi_t on (P(y > pi_t) - 1/2) / beta (arXiv 2405.00675, eq. 4.4).

    Args:
        beta: Win rates are divided by it.
        select: See `GPOObjective`.
        self_comparison: See `GPOObjective`; a response wins against itself with probability 1/2.
    """

    def __init__(
        self,
        beta: float = 0.001,
        select: Literal["best_worst", "all"] = "best_worst",
        self_comparison: bool = True,
    ) -> None:
        super().__init__(beta, select, self_comparison, "zero")

    def values(self, table: Tensor) -> Tensor:
        """How much likelier than not the first wins."""
        return table.sigmoid() - 0.5


class _BestAgainstWorst(PolicyObjective):
    """A loss of the best and the worst response by mean score; the formula is what subclasses differ in."""

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def selected(self, judged: Judged) -> Tensor:
        """The best and the worst [N, 2]."""
        return gpo.best_and_worst(gpo.mean_over_opponents(judged.table, True))

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """The loss of each prompt [N]; 0 where all responses are equally good, since there is no better one."""
        best, worst = (logprobs - judged.reference.gather(-1, selected)).unbind(-1)
        better, worse = gpo.mean_over_opponents(judged.table, True).gather(-1, selected).unbind(-1)
        return torch.where(better > worse, self.formula(best, worst), 0.0)

    @abstractmethod
    def formula(self, best: Tensor, worst: Tensor) -> Tensor:
        """Losses of log-ratios of the best and the worst [N]."""


class DPOObjective(_BestAgainstWorst):
    """DPO between the best and the worst response by mean score, against pi_t (arXiv 2305.18290).

    Args:
        beta: Scale of the log-ratios.
    """

    def formula(self, best: Tensor, worst: Tensor) -> Tensor:
        """See `functional.gpo.dpo`."""
        return gpo.dpo(best, worst, self.beta)


class IPOObjective(_BestAgainstWorst):
    """IPO between the best and the worst response by mean score, against pi_t (arXiv 2310.12036).

    Args:
        beta: The log-ratios shall differ by 1 / (2 beta).
    """

    def formula(self, best: Tensor, worst: Tensor) -> Tensor:
        """See `functional.gpo.ipo`."""
        return gpo.ipo(best, worst, self.beta)


class DistillObjective(PolicyObjective):
    """Reward distillation: regress differences of log-ratios on differences of rewards, s(i > j) / beta, over all pairs.

    arXiv 2405.19316 and, with pi_t as the reference, REBEL (arXiv 2404.16767). For a preference model that is not Bradley-Terry no reward
    has the table as its differences; the loss then finds the best one.

    Args:
        beta: Scores are divided by it.
    """

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """The loss of each prompt [N]; all K responses are selected."""
        return gpo.pairwise_errors(logprobs - judged.reference, judged.table / self.beta)
