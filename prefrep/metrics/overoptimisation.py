"""Over-optimisation: a policy that gains with the judge that it is trained on and loses with another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.metrics.intervals import Interval

Floats = NDArray[np.float64]


class Overoptimised(NamedTuple):
    """What a policy gained and lost since an earlier round.

    Args:
        since: The earlier round.
        gain: Interval of the difference of win rates with the judge of training, above 0.
        loss: Interval of the difference with the other judge, below 0.
    """

    since: int
    gain: Interval
    loss: Interval


def overoptimised(proxy: Sequence[Floats], gold: Sequence[Floats], level: float = 0.95) -> Overoptimised | None:
    """Return whether the last of several policies gained with one judge and lost with another, compared with an earlier policy.

    The proxy is the judge that a policy is trained on, the gold judge one that it is not (Gao et al., arXiv 2210.10760). Differences are
    taken prompt by prompt, with Student's intervals, since held-out prompts may be few. Each earlier policy is one test, so intervals of t
    tests have the level 1 - (1 - level) / t (Bonferroni).

    Args:
        proxy: Win rates on each of n prompts by the proxy, of t + 1 policies in order, [n] each; two or more.
        gold: The same by the gold judge.
        level: Confidence that no earlier policy is named by chance.

    Returns:
        The earlier policy of which both intervals exclude 0 and since which the mean with the gold judge fell most; None: there is none.
    """
    tests, found = len(proxy) - 1, []
    for since in range(tests):
        gain, loss = (_interval(rates[-1] - rates[since], 1 - (1 - level) / tests) for rates in (proxy, gold))
        if gain[0] > 0 > loss[1]:
            found.append((float((gold[-1] - gold[since]).mean()), Overoptimised(since, gain, loss)))
    return min(found)[1] if found else None


def _interval(differences: Floats, level: float) -> Interval:
    """Return Student's interval of a mean; of a single difference it is endless."""
    from scipy.stats import t

    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return -np.inf, np.inf
    margin = float(t.ppf((1 + level) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return mean - margin, mean + margin
