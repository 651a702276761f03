"""Labels of a judge that is asked about every pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import expit

from prefrep.data.spool import Spool
from prefrep.judges import GenerativeJudge, Judge
from prefrep.labels.base import LabelStep, Outcome, Work, example
from prefrep.labels.rows import Labelled, comparisons
from prefrep.writers import leave


class Verdicts(LabelStep):
    """What a judge says of each pair, as the column `verdict` (log-odds of chosen in nats; null: none) and, if asked for, as its label.

    A pair without a verdict keeps its label.

    Args:
        judge: The judge.
        action: `note`: the column alone. `soft`: P(chosen is better) becomes the label. `hard`: whoever the judge prefers.
    """

    def __init__(self, judge: Judge, action: Literal["note", "soft", "hard"] = "note") -> None:
        self.judge, self.action = judge, action

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:
        """See `LabelStep`.

        Raises:
            VerdictError: Too many questions had no verdict.
        """
        said = np.fromiter(self.judge.compare(comparisons(pairs), progress="verdicts"), np.float64)
        leave()
        known = said[~np.isnan(said)]
        for_label = np.nan_to_num(said) * np.fromiter((each.sign for each in pairs), np.float64)
        against = np.flatnonzero(for_label < 0)
        worst = against[np.argsort(for_label[against], kind="stable")[:4]].tolist()
        if isinstance(self.judge, GenerativeJudge):
            self.judge.check()
        return Outcome(
            Spool(self._told(each, float(value)) for each, value in zip(pairs, said, strict=True)),
            {"pairs": len(pairs), "without a verdict": len(pairs) - len(known), "verdict against the label": len(against)},
            {"log-odds of chosen": known},
            [example(f"verdict {for_label[i]:+.2f} nats for the label", pairs[i].comparison) for i in worst],
        )

    def _told(self, each: Labelled, value: float) -> Labelled:
        if math.isnan(value):
            return each.noted(verdict=None)
        if self.action != "note":
            each = each.relabelled(probability=float(expit(value)) if self.action == "soft" else 0.5 + float(np.sign(value)) / 2)
        return each.noted(verdict=value)
