"""Battles drawn anew from a fit, as a transitive judge with the same sharpness, order effect, ties and number of votes would decide them.

Verdicts are not independent: several people judge one pair of answers, and an answer meets several others. A null of independent verdicts
would call that circles. So the draws have answers whose quality differs from their system's:

    logit p = eta + spread (sqrt(share) (a_i - a_j) / sqrt 2 + sqrt(1 - share) e)        a: by answer, e: by pair of answers

with standard normal a and e, and eta scaled so that the mean of p is that of the fit. Both parameters are found from the products of
residuals: of two votes on one pair of answers, and of two pairs that share an answer. Letters: `N` battles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrep.functional.groups import probabilities

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Bools = NDArray[np.bool_]

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_BINS = 65
_WIDEST = 5.0  # of spread, in nats


class Answers(NamedTuple):
    """Who answered what, as numbers.

    Attributes:
        item: Pair of answers of each battle, [N]; -1: the prompt is unknown.
        left: Answer of the left one, [N].
        right: Answer of the right one, [N].
        sign: 1 where the left system has the smaller number, else -1, [N].
        items: Number of pairs of answers.
        answers: Number of answers.
    """

    item: Codes
    left: Codes
    right: Codes
    sign: Floats
    items: int
    answers: int


def answers(left: Codes, right: Codes, prompt: Codes, systems: int) -> Answers:
    """Return who answered what.

    Args:
        left: Place of the left system, [N].
        right: Of the right one, [N].
        prompt: [N]; -1: unknown, so that the battle shares its answers with no other.
        systems: K.
    """
    known = prompt >= 0
    low, high = np.minimum(left, right), np.maximum(left, right)
    item, a, b = np.full((3, len(left)), -1)
    pairs, item[known] = np.unique((prompt * systems * systems + low * systems + high)[known], return_inverse=True)
    both = np.concatenate([(prompt * systems + each)[known] for each in (left, right)])
    names, place = np.unique(both, return_inverse=True)
    a[known], b[known] = np.split(place, 2) if len(place) else (place, place)
    return Answers(item, a, b, np.where(left < right, 1.0, -1.0), len(pairs), len(names))


class Dependence(NamedTuple):
    """How verdicts depend on each other.

    Attributes:
        spread: Standard deviation in nats.
        share: Of the answers in its square, 0 to 1; the rest belongs to pairs of answers.
        ties: Share of ties among battles whose sides are equal, by judge, [J].
    """

    spread: float
    share: float
    ties: Floats


def dependence(probability: Floats, outcome: Floats, judge: Codes, judges: int, who: Answers) -> Dependence:
    """Estimate how verdicts depend on each other, from residuals.

    Args:
        probability: P(left is better) of the fit, [N].
        outcome: [N].
        judge: [N].
        judges: J.
        who: Answers.
    """
    rows = who.item >= 0
    bins = np.quantile(probability, np.linspace(0, 1, _BINS)) if len(probability) else np.zeros(1)
    place = np.minimum(np.searchsorted(bins, probability), len(bins) - 1)
    spread = share = 0.0
    if rows.any():
        e = who.sign[rows] * (outcome - probability)[rows]
        here = place[rows]

        def deviations(width: float, shared: bool) -> Floats:
            moments = _moments(bins, width)
            return np.sqrt(moments.shared if shared else moments.variance)[here]

        spread, share = _found(e, deviations, who, rows)
    room = _moments(bins, spread).room[place]
    tied, most = np.bincount(judge, outcome == 0.5, judges), np.bincount(judge, room, judges)
    return Dependence(spread, share, np.minimum(tied / np.maximum(most, 1e-12), 1.0))


class _Moments(NamedTuple):
    """Of probabilities around their means, each [B].

    Attributes:
        variance: Of one.
        shared: Covariance of two that share an answer, which is half of the difference of two.
        room: Mean room for ties, 2 min(p, 1 - p).
    """

    variance: Floats
    shared: Floats
    room: Floats


def _moments(p: Floats, spread: float) -> _Moments:
    p, weights = np.clip(p, 1e-9, 1 - 1e-9), _WEIGHTS / _WEIGHTS.sum()
    common, own = np.meshgrid(_POINTS, _POINTS, indexing="ij")
    drawn = probabilities((np.log(p / (1 - p)) * _flatter(spread))[:, None, None] + spread * np.sqrt(0.5) * (common + own))
    given = drawn @ weights  # the mean given the common answer
    mean = given @ weights
    variance = np.square(drawn - mean[:, None, None]) @ weights @ weights
    shared = np.square(given - mean[:, None]) @ weights
    return _Moments(variance, shared, 2 * np.minimum(drawn, 1 - drawn) @ weights @ weights)


def _flatter(spread: float) -> float:
    """Return the scale of log-odds that keeps means: a logistic of normal noise is a flatter one (MacKay, Neural Computation 4, 1992)."""
    return float(np.sqrt(1 + np.pi / 8 * spread**2))


def _found(e: Floats, deviations: Callable[[float, bool], Floats], who: Answers, rows: Bools) -> tuple[float, float]:
    """Return spread and share whose expected products equal those of the residuals."""
    item, first = who.item[rows], np.unique(who.item[rows], return_index=True)[1]
    left, right, sign = who.left[rows], who.right[rows], who.sign[rows]
    smaller, larger = np.where(sign > 0, left, right)[first], np.where(sign > 0, right, left)[first]

    # An answer that hundreds of pairs share would outweigh all others, so its pairs of pairs weigh less.
    number = np.bincount(smaller, minlength=who.answers) + np.bincount(larger, minlength=who.answers)
    weight = 1 / np.maximum(number, 1)

    def products(values: Floats, other: float) -> tuple[float, float]:
        """Sums over pairs of votes: on one item, and on two items that share an answer; `other` is the sign of the second side."""
        sums = np.bincount(item, values, who.items)
        total = np.bincount(smaller, sums, who.answers) + other * np.bincount(larger, sums, who.answers)
        own = np.bincount(smaller, sums**2, who.answers) + np.bincount(larger, sums**2, who.answers)
        return float((sums**2).sum() - (values**2).sum()), float(weight @ (total**2 - own))

    def solved(wanted: float, shared: bool) -> float:
        low, high = 0.0, _WIDEST
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if products(deviations(middle, shared), 1.0)[shared] < wanted else (low, middle)
        return low  # 0 where the products are negative

    within, across = products(e, -1.0)
    by_answer = solved(across, True)
    spread = max(solved(within, False), by_answer) if len(first) < len(item) else by_answer
    expected = products(deviations(spread, True), 1.0)[1]
    return spread, float(np.clip(across / expected, 0, 1)) if expected > 1e-9 else 0.0


def redrawn(eta: Floats, judge: Codes, who: Answers, how: Dependence, generator: np.random.Generator) -> Floats:
    """Draw verdicts anew: 1, 0.5 or 0, [N], with mean sigmoid(eta).

    Args:
        eta: Log-odds of the fit, [N].
        judge: [N].
        who: Answers.
        how: Dependence of the verdicts.
        generator: Random numbers.
    """
    p = probabilities(eta)
    if how.spread > 0:
        quality, chance = generator.standard_normal(who.answers), generator.standard_normal(who.items)
        shift = np.sqrt(how.share / 2) * (quality[who.left] - quality[who.right])
        shift += np.sqrt(1 - how.share) * who.sign * chance[who.item]
        p = np.where(who.item >= 0, probabilities(eta * _flatter(how.spread) + how.spread * shift), p)
    tie = how.ties[judge] * 2 * np.minimum(p, 1 - p)
    drawn = generator.random(len(p))
    return np.where(drawn < p - tie / 2, 1.0, np.where(drawn < p + tie / 2, 0.5, 0.0))
