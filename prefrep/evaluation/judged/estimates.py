"""Numbers of a benchmark with their 95 % intervals: means over rows whose prompts are resampled, and averages of such means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from prefrep.evaluation.judged.rows import JudgedScore
from prefrep.evaluation.summary import Bootstrap, Floats, entry
from prefrep.metrics import intervals
from prefrep.metrics.intervals import Ints


class Estimate(NamedTuple):
    """A number with its bootstrap draws.

    Args:
        score: The number.
        n: Number of rows behind it.
        draws: The number of each resample, [B].
    """

    score: float
    n: int
    draws: Floats

    def entry(self) -> dict[str, Any]:
        """Return the number as `results.json` holds it."""
        return entry(self.score, self.n, self.draws)


def average(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """Return the unweighted mean of estimates of different rows, skipping None; None if all are None."""
    found = [each for each in estimates if each is not None]
    if not found:
        return None
    return Estimate(
        float(np.mean([each.score for each in found])), sum(each.n for each in found), np.mean([each.draws for each in found], axis=0)
    )


@dataclass(frozen=True)
class Sample:
    """Rows of a benchmark, whose prompts are resampled: rows on one prompt are not independent.

    Args:
        rows: The rows.
        bootstrap: Settings of the bootstrap.
    """

    rows: Sequence[JudgedScore]
    bootstrap: Bootstrap

    def where(self, subsets: Iterable[str]) -> Self:
        """Return the rows of some subsets."""
        wanted = set(subsets)
        return type(self)([row for row in self.rows if row.subset in wanted], self.bootstrap)

    @property
    def prompts(self) -> Ints:
        """The prompt of each row as an integer from 0, [n]; a row without a digest has a prompt of its own."""
        numbers: dict[object, int] = {}
        return np.array([numbers.setdefault(row.prompt or place, len(numbers)) for place, row in enumerate(self.rows)], dtype=np.int64)

    def mean(self, name: str, values: Sequence[float | None]) -> Estimate | None:
        """Estimate the mean of one value per row.

        Args:
            name: Name of the random stream, so that intervals do not depend on what else is estimated.
            values: One value per row; None: the row does not count.

        Returns:
            The estimate; None if no row counts.
        """
        counted = np.array([value is not None for value in values], dtype=bool)
        if not counted.any():
            return None
        kept = np.array([value for value in values if value is not None], dtype=np.float64)
        _, groups = np.unique(self.prompts[counted], return_inverse=True)
        draws = intervals.bootstrap_means(kept, self.bootstrap.draws, intervals.stream(self.bootstrap.seed, name), groups)
        return Estimate(float(kept.mean()), len(kept), draws)


def wilson(values: Sequence[float | None]) -> list[float] | None:
    """Return the Wilson interval of wins and losses; None if a value is neither, or there are no values."""
    counted = [value for value in values if value is not None]
    if not counted or not set(counted) <= {0.0, 1.0}:
        return None
    return list(intervals.accuracy_interval(int(sum(counted)), len(counted)))
