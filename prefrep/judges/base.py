"""The interface of judges: log-odds tables for ranked responses, log-odds for comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prefrep.errors import ConfigError
from prefrep.parts import Part, recipe
from prefrep.records import Comparison, RankedResponses, text

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """The judgement of K responses to one prompt.

    Args:
        table: Log-odds [K, K] in nats that row beats column; skew-symmetric.
        blocks: The same per 2 x 2 block of a general preference model [D/2, K, K]; the blocks add up to the table. None: no blocks.
        tables: Log-odds [K, K] by the name of the judge, if there are several; `table` is their weighted mean.
    """

    table: Floats
    blocks: Floats | None = None
    tables: Mapping[str, Floats] | None = None


class Comparer(Protocol):
    """Anything that compares responses: a `Judge`, a `Scorer`, the `Workers` of a scorer."""

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield log-odds of chosen over rejected in nats, in the order of the comparisons; `progress` labels a progress bar."""

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield log-odds [K, K] of the responses of each record, in order; scorers with blocks may yield them by block [D/2, K, K]."""

    def describe(self) -> dict[str, Any]:
        """Return all settings that affect a comparison, as plain data."""


class Judge(Part, ABC):
    """A source of preferences among responses."""

    def judge(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """Yield one verdict per record, in order; equal records get equal verdicts, up to rounding.

        Raises:
            ConfigError: A table holds NaN or infinity.
        """
        for record, verdict in zip(records, self.verdicts(records), strict=True):
            check_finite(verdict.table, self.name, text(record.prompt))
            yield verdict

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Comparer`; raises what `judge` raises."""
        for each in tqdm(comparisons, progress, unit=" pairs", disable=progress is None):
            (verdict,) = self.judge([RankedResponses(each.prompt, (each.chosen, each.rejected))])
            yield float(verdict.table[0, 1])

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """See `Comparer`; raises what `judge` raises."""
        for each in tqdm(records, progress, unit=" prompts", disable=progress is None):
            (verdict,) = self.judge([each])
            yield verdict.table

    @property
    def name(self) -> str:
        """Name of the judge in error messages."""
        return type(self).__name__

    @abstractmethod
    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """Yield one verdict per record, in order. `judge` checks that tables are finite."""

    def describe(self) -> dict[str, Any]:
        """Return all settings that affect a verdict, as plain data: by default the recipe of the judge."""
        return recipe(self)


def check_finite(table: Floats, judge: str, prompt: str) -> None:
    """Raise ConfigError if a table of log-odds holds NaN or infinity. A float64 value can overflow in float32 tables."""
    if not np.isfinite(table).all():
        wrong = table[~np.isfinite(table)].flat[0]
        raise ConfigError(f"the judge {judge} gave the log-odds {wrong} on the prompt {prompt!r:.60}; they must be finite float32 numbers")
