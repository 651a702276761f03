"""Measures of one judge: right or wrong, consistent or not, and what moves it beside quality."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from prefrep.evaluation.agreement import share
from prefrep.evaluation.audit.asked import FEATURES, Asked, Pair
from prefrep.evaluation.reliability import Scored, reliability
from prefrep.evaluation.summary import Bootstrap
from prefrep.functional.logistic import fit
from prefrep.metrics import intervals

Floats = NDArray[np.float64]
GROUPS = 3  # of pairs by closeness


def silence(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the share of questions without a verdict, and the reasons."""
    questions = [each for pair in pairs for each in pair.questions]
    reasons = Counter(each.why or "no verdict" for each in questions if each.p is None)
    return {**share(np.array([each.p is None for each in questions])), "reasons": dict(reasons.most_common())}


def accuracy(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Return accuracies against labels, a pair without a verdict not right; None: there are no labels.

    `judgebench` is that benchmark's rule: each order counts 1, -1 or 0, and the sum must be positive.
    """
    labelled = [pair for pair in pairs if pair.one.gold not in (None, 0.5)]
    if not labelled:
        return None
    wanted = [1.0 if pair.one.gold > 0.5 else -1.0 for pair in labelled]  # type: ignore[operator]
    right = np.array([pair.log_odds * sign > 0 for pair, sign in zip(labelled, wanted, strict=True)])
    known = np.array([not math.isnan(pair.log_odds) for pair in labelled])
    votes = [sum(float(np.sign(each.p - 0.5)) for each in pair.questions if each.p is not None) for pair in labelled]
    found = {
        "accuracy": share(right),
        "of_verdicts": share(right[known]),
        "judgebench": share(np.array([vote * sign > 0 for vote, sign in zip(votes, wanted, strict=True)])),
    }
    for name, first in (("better_shown_first", 1), ("better_shown_second", -1)):
        single = [
            each.log_odds() * sign > 0
            for pair, sign in zip(labelled, wanted, strict=True)
            for each in pair.questions
            if each.first == first * sign
        ]
        if single:
            found[name] = share(np.array(single))
    return found


def people(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Return agreement with the majority of people, and of one person with the majority of the others; None: nobody voted.

    A person's agreement leaves the person's own vote out; pairs where the others are split count for nobody.
    """
    voted = [pair for pair in pairs if pair.one.people is not None and pair.one.people[0] != pair.one.people[1]]
    if not voted:
        return None
    lead = [pair.one.people[0] - pair.one.people[1] for pair in voted if pair.one.people is not None]
    agrees = np.array([pair.log_odds * each > 0 for pair, each in zip(voted, lead, strict=True)])
    ones, others = 0.0, 0.0
    for pair in pairs:
        if pair.one.people is None:
            continue
        a, b = pair.one.people
        for own, for_it, against in ((a, a - 1, b), (b, b - 1, a)):
            if own >= 1 and for_it != against:
                others += own
                ones += own * (for_it > against)
    found: dict[str, Any] = {"judge": share(agrees)}
    if others:
        found["people"] = {"score": ones / others, "n": round(others)}
    return found


def consistency(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Return how often both orders say the same, a tie included, and what they say else; None: no pair was asked in both orders.

    Others count pairs whose orders name the same winner: `n` times `score`, less `both_tied`.
    """
    both = [pair for pair in pairs if pair.both_orders and not math.isnan(pair.log_odds)]
    if not both:
        return None
    signs = np.array([[np.sign(pair.in_order(1)), np.sign(pair.in_order(-1))] for pair in both])
    same = signs[:, 0] == signs[:, 1]
    return {
        **share(same),
        "twice_first": int(((signs[:, 0] > 0) & (signs[:, 1] < 0)).sum()),
        "twice_second": int(((signs[:, 0] < 0) & (signs[:, 1] > 0)).sum()),
        "one_tie": int((~same & (signs == 0).any(1)).sum()),
        "both_tied": int((signs == 0).all(1).sum()),
    }


def position(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Return the preference for the answer shown first, in nats, with a 95 % interval; None: pairs were not asked in both orders.

    Of probabilities: half the difference of an answer's log-odds shown first and shown second, with Student's interval over prompts. Of
    plain verdicts sigma(s + o) and sigma(s - o): twice the first is e^(2 o) times as probable as twice the second whatever s is, so o is
    half the log-odds among pairs that contradict themselves, with Wilson's interval.
    """
    both = [pair for pair in pairs if pair.both_orders and not math.isnan(pair.log_odds)]
    if len(both) < 2:
        return None
    if all(each.soft for pair in both for each in pair.questions):
        halves = np.array([(pair.in_order(1) - pair.in_order(-1)) / 2 for pair in both])
        interval = _over(halves, _groups(both))
        found: dict[str, Any] = {"nats": float(halves.mean()), "ci95": interval, "n": len(both), "rule": "probabilities"}
        strength = np.abs([pair.log_odds for pair in both])
        cuts = np.quantile(strength, [1 / GROUPS, 2 / GROUPS])
        places = np.digitize(strength, cuts)
        found["by_closeness"] = [
            {"strength_up_to": float(strength[places == g].max()), "nats": float(halves[places == g].mean()), "n": int((places == g).sum())}
            for g in range(GROUPS)
            if (places == g).any()
        ]
        return found
    signs = np.array([[np.sign(pair.in_order(1)), np.sign(pair.in_order(-1))] for pair in both])
    first, second = int(((signs[:, 0] > 0) & (signs[:, 1] < 0)).sum()), int(((signs[:, 0] < 0) & (signs[:, 1] > 0)).sum())
    if not first + second:
        return {"nats": 0.0, "ci95": None, "n": 0, "rule": "no pair contradicts itself"}
    low, high = intervals.accuracy_interval(first, first + second)

    def half(p: float) -> float | None:
        return math.log(p / (1 - p)) / 2 if 0 < p < 1 else None

    point = half((first + 0.5) / (first + second + 1)) if 0 in (first, second) else half(first / (first + second))
    return {"nats": point, "ci95": [half(low), half(high)], "n": first + second, "rule": "pairs whose orders contradict each other"}


def regression(pairs: Sequence[Pair], systems: bool) -> dict[str, Any] | None:
    """Return what moves a judge at equal strength, in nats with 95 % intervals, from one logistic regression over its questions.

    The strength of a pair is its label, else that of the systems, else the lead among people's votes. Plain ties are left out.
    `position`: the first place; `quality`: the better answer by that label, the judge's sharpness; features per standard deviation of
    their difference, as logarithms of counts; `own`: an answer of the judge's own. Intervals are sandwich ones over prompts.

    Args:
        pairs: The pairs of one judge.
        systems: Whether answers have the names of systems, which then have strengths.

    Returns:
        None if there are too few questions, or nothing is known of the strength.
    """
    rows = [each for pair in pairs for each in pair.questions if each.p is not None and (each.soft or each.p != 0.5)]
    quality = [_quality(each) for each in rows]
    labelled = [each for each in quality if each is not None]
    columns: dict[str, Floats] = {}
    if any(each.first for each in rows):
        columns["position"] = np.array([each.first for each in rows], dtype=np.float64)
    if len(labelled) == len(rows) and not (systems and rows and rows[0].gold is None):
        columns["quality"] = np.array(labelled)
    elif not systems:
        return None
    for name in dict.fromkeys(name for each in rows for name in each.features):
        values = [each.features.get(name, (0.0, 0.0)) for each in rows]
        difference = np.array([a - b for a, b in values])
        if (spread := float(difference.std())) > 1e-9 and name in FEATURES:
            columns[name] = difference / spread
    if systems:
        own = np.array([float(each.judge == each.a) - float(each.judge == each.b) for each in rows])
        if own.any():
            columns["own"] = own
    names = sorted({name for each in rows for name in (each.a, each.b)}) if systems and "quality" not in columns else []
    place = {name: number for number, name in enumerate(names)}
    table = np.zeros((len(rows), len(columns) + len(names)))
    for number, values_ in enumerate(columns.values()):
        table[:, number] = values_
    for number, each in enumerate(rows):
        if names:
            table[number, len(columns) + place[each.a]] += 1
            table[number, len(columns) + place[each.b]] -= 1
    if len(rows) <= 2 * table.shape[1]:
        return None
    outcomes = np.array([each.outcome for each in rows])
    groups = _prompts([each.prompt for each in rows])
    if len(set(groups.tolist())) < 20:  # sandwiches of few groups are far too narrow: questions count as independent
        groups = np.arange(len(rows))
    fitted = fit(table, outcomes, groups)
    errors = np.sqrt(np.diag(fitted.covariance))
    return {
        name: {"nats": float(value), "ci95": [float(value - 1.96 * error), float(value + 1.96 * error)], "se": float(error)}
        for name, value, error in zip(columns, fitted.coefficients, errors, strict=False)
    } | {"n": len(rows), "strength": "labels" if "quality" in columns else "systems"}


def calibration(pairs: Sequence[Pair], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return Brier score, log loss and calibration error of a judge's probabilities against labels; None: it has none."""
    known = [pair for pair in pairs if pair.one.gold is not None and not math.isnan(pair.log_odds)]
    if not known:
        return None
    # The label is often the answer that comes first in the data, so every other pair is turned.
    turn = np.where(np.arange(len(known)) % 2, -1.0, 1.0)
    scores = turn * np.array([pair.log_odds for pair in known])
    gold = np.array([pair.one.gold for pair in known], dtype=np.float64)
    measured, _ = reliability(Scored(scores, np.where(turn > 0, gold, 1 - gold), _groups(known)), None, bootstrap)
    return measured


def _quality(each: Asked) -> float | None:
    if each.gold is not None:
        return 2 * each.gold - 1
    if each.people is None or not any(each.people):
        return None
    a, b = each.people
    return (a - b) / (a + b)


def _groups(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    return _prompts([pair.one.prompt for pair in pairs])


def _prompts(names: Sequence[str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _over(values: Floats, groups: NDArray[np.int64]) -> list[float] | None:
    """Return Student's 95 % interval of a mean over groups that are independent."""
    count = int(groups.max()) + 1
    if count < 2:
        return None
    sums = np.zeros(count)
    np.add.at(sums, groups, values - values.mean())
    error = math.sqrt(float((sums**2).sum()) * count / (count - 1)) / len(values)
    width = float(stdtrit(count - 1, 0.975)) * error
    return [float(values.mean() - width), float(values.mean() + width)]
