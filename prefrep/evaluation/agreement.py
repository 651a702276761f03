"""Where verdicts agree with the data: accuracies overall, by subset, by length and by margin, from columns of comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prefrep.data.firsts import first_rows, numbered
from prefrep.evaluation.reliability import Scored
from prefrep.metrics import calibration, intervals

GROUPS = 5  # of accuracies by length and by margin

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Lengths = NDArray[np.int32]
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of scored comparisons, about 40 bytes each.

    Args:
        scores: Log-odds of chosen over rejected [n]; NaN: no verdict.
        outcomes: P(chosen wins) according to the data [n].
        right: Whether the verdict is right [n]; of ties in the data (1/2) False.
        margins: By how much chosen is better according to the data [n]; NaN: unknown.
        lengths: Characters of chosen minus those of rejected [n].
        prompts: Numbers [n], equal for comparisons on one prompt.
        subsets: Right verdicts, and verdicts that can be right, by subset.
    """

    scores: Floats
    outcomes: Floats
    right: Flags
    margins: Floats
    lengths: Lengths
    prompts: intervals.Ints
    subsets: dict[str, list[int]]

    @classmethod
    def empty(cls, n: int) -> Columns:
        """Return columns without content."""
        return cls(
            np.empty(n), np.empty(n), np.empty(n, bool), np.empty(n), np.empty(n, np.int32), np.empty(n, np.int64), {}
        )  # fmt: skip

    @property
    def decided(self) -> Flags:
        """Where the data have a correct verdict [n]."""
        return np.asarray(self.outcomes != 0.5)

    @property
    def silent(self) -> Flags:
        """Where there is no verdict [n]."""
        return np.isnan(self.scores)

    def scored(self) -> Scored:
        """Return the columns that calibration is measured on: of the comparisons with a verdict."""
        known = ~self.silent
        return Scored(_where(known, self.scores), _where(known, self.outcomes), groups(_where(known, self.prompts)))


def distinct_values(values: intervals.Ints) -> int:
    """Return how many different values there are among values [n]."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + bool(len(ordered))


def groups(values: intervals.Ints) -> intervals.Ints | None:
    """Return group numbers from 0 [n], in the order in which the values [n] first occur; None: each value is a group of its own.

    Where all are equal each is one, too: only the comparisons on one prompt can be resampled.
    """
    return None if distinct_values(values) in (1, len(values)) else numbered(first_rows(values))


def share(hits: Flags) -> dict[str, Any]:
    """Return a share with its Wilson interval as `results.json` holds it; without trials, None in [0, 1]."""
    return share_of(int(hits.sum()), len(hits))


def share_of(wins: int, n: int) -> dict[str, Any]:
    """Return the share of wins in n trials, see `share`."""
    return {"score": wins / n if n else None, "n": n, "ci95": list(intervals.accuracy_interval(wins, n))}


def agreement(columns: Columns) -> dict[str, Any]:
    """Return accuracies: overall, by subset, length and margin, and where verdicts are missing, of those that there are."""
    decided, silent = columns.decided, columns.silent
    right = columns.right[decided]
    silence = {**share(silent), "accuracy_of_verdicts": share(columns.right[decided & ~silent])}
    return {
        "overall": share(right),
        "subsets": {name: share_of(wins, n) for name, (wins, n) in columns.subsets.items()},
        "agreement": {"length": _by_length(columns, decided, right), "margin": _by_margin(columns, decided)},
        **({"no_verdict": silence} if silent.any() else {}),
    }


def _where(kept: Flags, values: NDArray[Kind]) -> NDArray[Kind]:
    """Return the values [n] that are kept; the same array if they all are."""
    return values if kept.all() else values[kept]


def _grouped(values: Floats | Lengths, right: Flags) -> list[dict[str, Any]]:
    """Return accuracies in groups of about equal size: verdicts [n] by a value [n]."""
    places = calibration.equal_mass(values, GROUPS)
    return [
        {"low": float(values[places == g].min()), "high": float(values[places == g].max()), **share(right[places == g])}
        for g in range(int(places.max(initial=-1)) + 1)
    ]


def _by_length(columns: Columns, decided: Flags, right: Flags) -> dict[str, Any]:
    """Return accuracy by length difference, in characters, and how often model and data choose the longer answer."""
    lengths, scores = columns.lengths, columns.scores
    chooses = decided & (lengths != 0) & ((scores > 0) | (scores < 0))  # not where the scores are equal, or there is no verdict
    longer = _where(decided, np.where(columns.outcomes > 0.5, lengths, -lengths))
    return {
        "preferred_longer": share(right[longer > 0]),
        "preferred_shorter": share(right[longer < 0]),
        "same_length": share(right[longer == 0]),
        "model_chooses_longer": share(((scores > 0) == (lengths > 0))[chooses]),
        "data_choose_longer": share(longer[longer != 0] > 0),
        "bins": _grouped(longer, right),
    }


def _by_margin(columns: Columns, decided: Flags) -> dict[str, Any] | None:
    unknown = np.isnan(columns.margins)
    known = decided & ~unknown
    if not known.any():
        return None
    return {
        "known": int(known.sum()),
        "unknown": share(columns.right[decided & unknown]),
        "bins": _grouped(_where(known, columns.margins), columns.right[known]),
    }
