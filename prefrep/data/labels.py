"""How a run uses published labels: which criterion counts, and what strength means. Formats decide neither."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from prefrep.errors import ConfigError
from prefrep.records import Comparison, RankedResponses, Record

Strength = Literal["ignore", "margin", "probability"]


@dataclass(frozen=True)
class Labels:
    """The choice of labels.

    Args:
        criterion: Only comparisons of this criterion; of responses rated on aspects, the aspect that becomes the score. None: all
            comparisons, and the published overall score.
        strength: `ignore`: strengths have no effect. `margin`: margin = scale * strength, log-odds. `probability`: P(chosen > rejected) =
            sigmoid(scale * strength), which is 0.5 for a strength of 0.
        scale: Log-odds per unit of the published strength.

    Raises:
        ConfigError: The scale is not above 0.
    """

    criterion: str | None = None
    strength: Strength = "ignore"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"strength_scale must be above 0, got {self.scale}")

    def apply(self, record: Record) -> Record | None:
        """Return a record with the chosen labels; None: it has no label of the criterion."""
        if isinstance(record, RankedResponses):
            return self._scored(record)
        if self.criterion is not None and record.criterion != self.criterion:
            return None
        return self._with_strength(record)

    def _with_strength(self, record: Comparison) -> Comparison:
        if record.strength is None or self.strength == "ignore":
            return record
        odds = self.scale * record.strength
        if self.strength == "margin":
            return replace(record, margin=odds)
        return replace(record, probability=1 / (1 + math.exp(-odds)))

    def _scored(self, record: RankedResponses) -> RankedResponses | None:
        if self.criterion is None or self.criterion == record.criterion:
            return record
        ratings = record.ratings.get(self.criterion)
        if ratings is None:
            return None
        rated = [i for i, rating in enumerate(ratings) if not math.isnan(rating)]
        if not rated:
            return None
        return replace(
            record,
            responses=tuple(record.responses[i] for i in rated),
            scores=tuple(ratings[i] for i in rated),
            ratings={aspect: tuple(values[i] for i in rated) for aspect, values in record.ratings.items()},
            criterion=self.criterion,
        )
