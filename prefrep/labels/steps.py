"""Pairs of steps that share all before them (Step-level value preference, arXiv:2406.10858)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from prefrep.data.pairs import VALUE_MARGIN
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError, DataError
from prefrep.labels.base import LabelStep, Outcome, Work, example
from prefrep.labels.rows import Labelled
from prefrep.records import VALUE


class Steps(LabelStep):
    """Pairs of sibling steps whose values differ by enough, with a margin in proportion.

    The data are trees in the format `steps`. Values are estimates, and close ones order a pair by chance.

    Args:
        gap: Least difference of Q, 0 to 1.
        scale: Margin in log-odds per unit of Q; up to 4, exact values satisfy it.

    Raises:
        ConfigError: A number is outside its range.
    """

    def __init__(self, gap: float = 0.1, scale: float = VALUE_MARGIN) -> None:
        if not 0 <= gap <= 1 or scale < 0:
            raise ConfigError(f"Steps.gap must lie in [0, 1] and Steps.scale be 0 or more, got {gap} and {scale}")
        self.gap, self.scale = gap, scale

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        gaps: list[float] = []

        def far() -> Iterator[Labelled]:
            for each in pairs:
                if each.scores is None or each.comparison.criterion != VALUE:
                    where = each.comparison.source or "a pair"
                    raise DataError(f"{where}: no step of a tree; Steps needs rows {{prompt, prefix, step, Q}}")
                gaps.append(each.scores[0] - each.scores[1])
                if gaps[-1] >= self.gap:
                    yield each.relabelled(margin=self.scale * gaps[-1]).noted(q=list(each.scores))

        found = Spool(far())
        return Outcome(
            found,
            {"pairs of steps": len(found), "left out, values too close": len(pairs) - len(found)},
            {"difference of Q": np.array(gaps)},
            [example(f"Q {each.columns['q'][0]:.2f} against {each.columns['q'][1]:.2f}", each.comparison) for each in found[:4]],
        )
