"""Circles of a judge beside those that a transitive judge of the same sharpness and order effect would show.

Hard and soft intransitivity are those of arXiv 2502.14074; both orders are averaged first, since a position bias alone makes circles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, xlogy

from prefrep.evaluation.audit.asked import Pair
from prefrep.functional.transitive_nulls import p_value
from prefrep.metrics import intervals

Floats = NDArray[np.float64]
LARGEST = 30.0  # nats: spread of strengths beyond which every verdict is sure
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)


class Judging(NamedTuple):
    """A transitive judge: answers to a prompt have strengths from a normal distribution, and verdicts follow their differences.

    Args:
        spread: Standard deviation of the strengths, in nats.
        order: Preference for the answer shown first, in nats.
        noise: Standard deviation of each answer's log-odds, of judges with probabilities.
        ties: Share of ties among plain verdicts.
        soft: Whether the judge gives probabilities.
    """

    spread: float
    order: float
    noise: float
    ties: float
    soft: bool


def tables(pairs: Sequence[Pair]) -> list[Floats]:
    """Return the log-odds tables of prompts with three answers or more all of whose pairs have a verdict in both orders.

    Returns:
        One array for each number of answers, [P, 2, K, K]: the first table of a prompt has the row's answer shown first, the second its
        rival.
    """
    by_prompt: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.one.prompt, []).append(pair)
    found: dict[int, list[Floats]] = {}
    for group in by_prompt.values():
        names = sorted({name for pair in group for name in (pair.one.a, pair.one.b)})
        place = {name: number for number, name in enumerate(names)}
        table = np.full((2, len(names), len(names)), np.nan)
        for pair in group:
            i, j = place[pair.one.a], place[pair.one.b]
            first, second = pair.in_order(1), pair.in_order(-1)
            table[0, i, j], table[1, i, j], table[0, j, i], table[1, j, i] = first, second, -second, -first
        np.einsum("kii->ki", table)[:] = 0
        if len(names) >= 3 and np.isfinite(table).all():
            found.setdefault(len(names), []).append(table)
    return [np.stack(found[size]) for size in sorted(found)]


def counted(found: Sequence[Floats]) -> dict[str, float]:
    """Return shares of triples that contradict a weak order (`hard`) and that run in a circle (`cycles`), and the `soft` divergence.

    Args:
        found: Mean log-odds of prompts, [P, K, K] for each number of answers.
    """
    sums = np.zeros(4)
    for table in found:
        i, j, k = np.array(list(combinations(range(table.shape[-1]), 3))).T
        ab, bc, ac = table[:, i, j], table[:, j, k], table[:, i, k]
        x, y, z = (np.sign(np.where(np.abs(each) < 1e-12, 0.0, each)) for each in (ab, bc, ac))
        bad = np.zeros(x.shape, dtype=bool)
        for u, v, w in ((x, y, z), (-x, z, y), (z, -y, x)):  # each pair of steps through one answer implies the third side
            bad |= (u * v >= 0) & (w != np.sign(u + v))
        sums += x.size, bad.sum(), ((x == y) & (y == -z) & (x != 0)).sum(), _divergence(ab, bc, ac).sum()
    return {"triples": int(sums[0]), "hard": sums[1] / sums[0], "cycles": sums[2] / sums[0], "soft": sums[3] / sums[0]}


def _divergence(ab: Floats, bc: Floats, ac: Floats) -> Floats:
    """Return the mean Jensen-Shannon divergence, in nats, between each side as judged and as the two others imply."""
    total = np.zeros(ab.shape)
    for said, implied in ((ac, ab + bc), (ab, ac - bc), (bc, ac - ab)):
        p, q = expit(said), expit(implied)
        middle = (p + q) / 2
        total += (_entropy(middle) - (_entropy(p) + _entropy(q)) / 2) / 3
    return total


def _entropy(p: Floats) -> Floats:
    return np.asarray(-(xlogy(p, p) + xlogy(1 - p, 1 - p)))


def judging(found: Sequence[Floats], soft: bool) -> Judging:
    """Return the transitive judge that is as sharp, as biased and as undecided: from pairs alone, which know nothing of circles.

    Args:
        found: Tables of both orders, from `tables`.
        soft: Whether they are probabilities.
    """
    sides = [np.triu_indices(table.shape[-1], 1) for table in found]
    first, second = (np.concatenate([table[:, n, i, j].ravel() for table, (i, j) in zip(found, sides, strict=True)]) for n in (0, 1))
    if soft:
        half, mean = (first - second) / 2, (first + second) / 2
        within = float(half.var())
        between = max(float((mean**2).mean()) - within, 0.0)
        return Judging(math.sqrt(between / 2), float(half.mean()), math.sqrt(2 * within), 0.0, True)
    ties = float((np.concatenate([first, second]) == 0).mean())
    decided = (first != 0) & (second != 0)
    a, b = first[decided] > 0, second[decided] > 0
    twice_first, twice_second, same = int((a & ~b).sum()), int((~a & b).sum()), int((a == b).sum())
    order = math.log((twice_first + 0.5) / (twice_second + 0.5)) / 2
    share = (same + 0.5) / (len(a) + 1)

    def agreement(spread: float) -> float:
        s = math.sqrt(2) * spread * _NODES
        p, q = expit(s + order), expit(s - order)
        return float((_WEIGHTS * (p * q + (1 - p) * (1 - q))).sum() / _WEIGHTS.sum())

    if share <= agreement(0.0):
        return Judging(0.0, order, 0.0, ties, False)
    spread = LARGEST if share >= agreement(LARGEST) else float(brentq(lambda each: agreement(each) - share, 0.0, LARGEST))
    return Judging(spread, order, 0.0, ties, False)


def drawn(judge: Judging, sizes: Mapping[int, int], generator: np.random.Generator) -> list[Floats]:
    """Return tables of both orders from a transitive judge, [P, 2, K, K] for each number of answers.

    Args:
        judge: The judge.
        sizes: Number of prompts by number of answers.
        generator: Source of the draws.
    """
    found = []
    for size, prompts in sizes.items():
        strengths = judge.spread * generator.standard_normal((prompts, size))
        table = np.zeros((prompts, 2, size, size))
        i, j = np.triu_indices(size, 1)
        for number, sign in enumerate((1, -1)):
            said = strengths[:, i] - strengths[:, j] + sign * judge.order
            if judge.soft:
                said = said + judge.noise * generator.standard_normal(said.shape)
            else:
                said = math.log(3) * np.where(generator.random(said.shape) < expit(said), 1.0, -1.0)
                said = np.where(generator.random(said.shape) < judge.ties, 0.0, said)
            table[:, number, i, j], table[:, 1 - number, j, i] = said, -said
        found.append(table)
    return found


def circles(pairs: Sequence[Pair], draws: int, seed: int) -> dict[str, Any] | None:
    """Return a judge's circles, those of transitive judges like it, and p-values; None: no prompt has three answers in both orders.

    Args:
        pairs: The pairs of one judge.
        draws: Simulated judges.
        seed: Seed of the simulation.
    """
    found = tables(pairs)
    if not found:
        return None
    soft = all(each.soft for pair in pairs for each in pair.questions if each.p is not None)
    like = judging(found, soft)
    observed = counted([table.mean(1) for table in found])
    generator = intervals.stream(seed, "circles")
    sizes = {table.shape[-1]: len(table) for table in found}
    null = [counted([table.mean(1) for table in drawn(like, sizes, generator)]) for _ in range(draws)]
    result: dict[str, Any] = {"prompts": sum(map(len, found)), "triples": int(observed["triples"]), "transitive_judge": like._asdict()}
    for name in ("hard", "cycles", "soft"):
        values = np.array([each[name] for each in null])
        result[name] = {
            "observed": observed[name],
            "transitive": {"mean": float(values.mean()), "range95": [float(each) for each in np.quantile(values, [0.025, 0.975])]},
            "p": p_value(observed[name], values),
        }
    result["by_distance"] = _by_distance([each for table in found for each in table.mean(1)])
    return result


def _by_distance(found: Sequence[Floats]) -> list[dict[str, Any]]:
    """Return the share of hard circles by the distance in rank between the best and the worst of a triple; tables [K, K]."""
    counts: dict[int, list[float]] = {}
    for table in found:
        ranked = table[np.ix_(*[np.argsort(-table.mean(1))] * 2)]
        for places in combinations(range(len(table)), 3):
            one = counts.setdefault(places[2] - places[0], [0.0, 0.0])
            one[0] += 1
            one[1] += counted([ranked[np.ix_(places, places)][None]])["hard"]
    return [{"distance": each, "triples": int(n), "hard": bad / n} for each, (n, bad) in sorted(counts.items())]
