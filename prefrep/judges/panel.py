"""Several judges as one: the weighted mean of their log-odds, with the table of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError
from prefrep.judges.base import Floats, Judge, Verdict
from prefrep.records import Comparison, RankedResponses


class PanelJudge(Judge):
    """Several judges of any kinds. The verdict is the weighted mean of their log-odds, and carries the table of each.

    A mean of log-odds is ruled by the judge with the largest ones. `CaPOObjective` reads the tables, whose scales it calibrates away.

    Args:
        judges: The judges by name.
        weights: Weight of each, by name; those that are not named weigh 1, and only ratios count. null: all weigh the same.

    Raises:
        ConfigError: There is no judge, or a weight is negative, names nobody, or all are 0.
    """

    def __init__(self, judges: dict[str, Judge], weights: dict[str, float] | None = None) -> None:
        if not judges:
            raise ConfigError("PanelJudge.judges is empty; name one judge or more")
        given = weights or {}
        if unknown := sorted(given.keys() - judges.keys()):
            raise ConfigError(f"PanelJudge.weights names {unknown[0]!r}, which is none of the judges {', '.join(judges)}")
        found = np.array([given.get(name, 1.0) for name in judges])
        if not all(math.isfinite(weight) and weight >= 0 for weight in found) or not found.any():
            raise ConfigError(f"PanelJudge.weights must be 0 or more, and one of them positive, got {given}")
        self.judges, self.weights = judges, weights
        self._shares: NDArray[np.float64] = found / found.sum()

    @property
    def name(self) -> str:
        """Names of the judges."""
        return " + ".join(self.judges)

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`; raises what the judges raise."""
        for found in zip(*(judge.judge(records) for judge in self.judges.values()), strict=True):
            tables = np.stack([verdict.table for verdict in found])
            mean = np.tensordot(self._shares, tables.astype(np.float64), 1)
            yield Verdict(cast(Floats, mean.astype(np.float32)), tables=dict(zip(self.judges, tables, strict=True)))

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Comparer`; raises what the judges raise."""
        streams = tee(comparisons, len(self.judges))
        shown = [progress, *[None] * (len(self.judges) - 1)]
        judges = zip(self.judges.values(), streams, shown, strict=True)
        for scores in zip(*(judge.compare(own, progress=bar) for judge, own, bar in judges), strict=True):
            yield float(self._shares @ np.array(scores))

    def describe(self) -> dict[str, Any]:
        """Return the description of each judge by name, and the weights."""
        return {"judges": {name: judge.describe() for name, judge in self.judges.items()}, "weights": self.weights}
