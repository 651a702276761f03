"""Objectives that regress log-ratios on values against an opponent: GPO, its length-normalised form, Nash-MD, SPPO."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives.base import PolicyObjective


class _Regression(PolicyObjective):
    """Regression of log-ratios on values against an opponent; subclasses differ in the values."""

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
            raise ConfigError(f"opponent and anchor must be shares of pi_0 in [0, 1], got {opponent} and {anchor}")
        self.select, self.self_comparison, self.log_z, self.gamma = select, self_comparison, log_z, gamma
        self.clamp, self.clamp_at, self.opponent, self.anchor = clamp, clamp_at, opponent, anchor

    @property
    def needs_opponents(self) -> bool:
        """Whether the opponent contains pi_0."""
        return self.opponent > 0

    @property
    def needs_initial(self) -> bool:
        """Whether the anchor contains pi_0."""
        return self.anchor > 0

    def values(self, table: Tensor) -> Tensor:
        """Return the values that are averaged over opponents: the scores themselves."""
        return table

    def targets(self, judged: Judged) -> Tensor:
        """Return the regression targets s / beta - log Z [N, K]."""
        limit = self.clamp if self.clamp is not None else float("inf")
        scores = self._scores(judged)
        if self.clamp_at == "score":
            scores = scores.clamp(-limit, limit)
        targets = scores / self.beta
        if self.log_z == "estimated":
            # Samples come from pi_t but Z normalises the anchor (pi_0 / pi_t)^anchor pi_t: importance weights.
            weights = self.anchor * (judged.initial - judged.reference) if self.anchor > 0 else 0.0
            targets = targets - gpo.log_partition(targets + weights)
        return targets.clamp(-limit, limit) if self.clamp_at == "target" else targets

    def selected(self, judged: Judged) -> Tensor:
        """Return the best and the worst [N, 2], or all K; by mean values, since a clamp makes targets equal."""
        return gpo.best_and_worst(self._scores(judged)) if self.select == "best_worst" else super().selected(judged)

    def __call__(self, logprobs: Tensor, judged: Judged, selected: Tensor) -> Tensor:
        """Return the mean squared error over the selected responses [N]."""
        reference = judged.reference
        if self.anchor > 0:
            reference = (1 - self.anchor) * reference + self.anchor * judged.initial
        reference, targets, lengths = (values.gather(-1, selected) for values in (reference, self.targets(judged), judged.lengths))
        return gpo.squared_errors(logprobs - reference, targets, lengths, self.gamma).mean(-1)

    def _scores(self, judged: Judged) -> Tensor:
        """Return the mean value of each response against the opponent [N, K]."""
        return gpo.against_mixture(self.values(judged.table), self.values(judged.initial_table), self.opponent, self.self_comparison)


class GPOObjective(_Regression):
    """General preference optimization: regress log pi / pi_t on s(y > mu) / beta - log Z (arXiv 2410.02197, eq. 5.3).

    Defaults are those of the paper's experiments: mu is pi_t, its K samples include the response itself, log Z = 0, and the loss covers
    only the best and the worst response by mean score. The official data script doubles every score (table - table^T of a skew table);
    `beta: 0.0005` reproduces its numbers. Its clamp threshold of 1000 is undocumented, so `clamp_at` offers both places and `clamp` is off.

    Args:
        beta: Divisor of the scores.
        select: Responses in the loss.
        self_comparison: Whether a response is one of its own opponents, against which it scores 0.
        log_z: `zero`, or estimated as log mean exp(s / beta) over the K samples.
        clamp: Largest absolute target or score; null: no limit.
        clamp_at: What to clamp: `target` (s / beta - log Z) or `score` (s).
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


# When the command line replaces one class by another, arguments that both have keep their values. So the next two classes differ in
# arguments that GPOObjective does not have.


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
    """Variant of Nash-MD (arXiv 2312.00886): opponent and anchor are mixtures of pi_t and pi_0, which pull back towards pi_0.

    Nash-MD plays against the geometric mixture; here the opponent is pi_t or pi_0, drawn with the share of each. The anchor, which replaces
    pi_t in the log-ratio, is geometric: pi_t^(1-a) pi_0^a.

    Args:
        beta: See `GPOObjective`.
        opponent: Share of pi_0 in the opponent (1: pi_0 alone); `SampleResponses.initial` sets how many of its responses are sampled.
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

    TRL's `sppo_hard` is the sum over the two responses of a pair, and this the mean: of a certain judge and without self-comparison it is
    half of TRL's for the same beta, so twice the learning rate gives the same steps of plain gradient descent.

    Args:
        beta: Divisor of the win rates.
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
        """Return P(first wins) - 1/2."""
        return table.sigmoid() - 0.5
