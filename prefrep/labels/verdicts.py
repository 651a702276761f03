"""Labels of a judge that is asked about every pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import expit

from prefrep.judges import GenerativeJudge, Judge
from prefrep.labels.base import LabelStep, Outcome, Work, example
from prefrep.labels.rows import Labelled
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
        said = list(self.judge.compare([each.comparison for each in pairs], progress="verdicts"))
        leave()
        found = []
        for each, value in zip(pairs, said, strict=True):
            if not math.isnan(value) and self.action != "note":
                p = float(expit(value)) if self.action == "soft" else 0.5 + float(np.sign(value)) / 2
                each = each.relabelled(probability=p)
            found.append(each.noted(verdict=None if math.isnan(value) else float(value)))
        known = [(each, value) for each, value in zip(pairs, said, strict=True) if not math.isnan(value)]
        against = sorted(((value * each.sign, each) for each, value in known if value * each.sign < 0), key=lambda one: one[0])
        if isinstance(self.judge, GenerativeJudge):
            self.judge.check()
        return Outcome(
            found,
            {"pairs": len(pairs), "without a verdict": len(pairs) - len(known), "verdict against the label": len(against)},
            {"log-odds of chosen": np.array([value for _, value in known])},
            [example(f"verdict {value:+.2f} nats for the label", each.comparison) for value, each in against[:4]],
        )
