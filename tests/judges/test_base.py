"""What every judge is held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from prefrep.errors import ConfigError
from prefrep.judges import Judge, Verdict
from prefrep.records import RankedResponses
from prefrep.scoring import ranked


class Fixed(Judge):
    """Gives one table, whatever is asked."""

    def __init__(self, table: np.ndarray[Any, Any]) -> None:
        self.table = table

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        return (Verdict(self.table) for _ in records)

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_verdicts_that_are_no_numbers_are_refused(value: float) -> None:
    table = np.zeros((3, 3), np.float32)
    table[1, 2] = value
    with pytest.raises(ConfigError, match=r"the judge Fixed gave the log-odds -?(nan|inf) on the prompt 'Why[?]'"):
        list(Fixed(table).judge([ranked("Why?", ["a", "b", "c"])]))
